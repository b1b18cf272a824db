//! A server in OpenAI's manner: one model and its steered and tuned variants, each under a
//! name of its own.
//!
//! mistral.rs's own server (mistralrs-server-core 0.8.1) is not used: it also serves routes that
//! requantize, unload and reload models, load any model of the hub, and keep answers; it reads
//! files and fetches addresses that a chat names as images; and it renders chats unlike
//! transformers. What is served here:
//!
//! | | |
//! |---|---|
//! | `GET /`, `GET /health` | `OK` |
//! | `GET /v1/models`, `GET /v1/models/{id}` | the models |
//! | `POST /v1/chat/completions` | chat, streamed or not |
//! | `POST /v1/completions` | raw text, streamed or not |
//! | `GET /v1/steering`, `POST /v1/steering` | variants and their doses; changing one |
//!
//! Everything else is 404.

mod answers;
mod asking;
mod fields;
mod messages;
mod models;
mod reply;
mod request;
mod sampling;
mod server;

pub use models::Models;
pub(crate) use models::{DEFAULT, DOSES};
pub use request::Limits;
pub use server::Server;
