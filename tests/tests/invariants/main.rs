//! What must hold whatever the numbers are.

mod artefacts;
mod forward;
mod gradients;
mod oracle_reads_ours;
mod quantized;
mod refusals;
