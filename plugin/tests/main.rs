//! The program as its users meet it: what it prints, writes, serves and refuses.

mod commands;
mod convert;
mod directories;
mod errors;
mod help;
mod kept;
mod killed;
mod output;
mod program;
mod run;
mod serve;
mod templates;
mod weights;
