//! What must hold whatever the numbers are.

mod artefacts;
mod company;
mod forward;
mod gradients;
mod half_precision;
mod left_out;
mod oracle_reads_ours;
mod quantized;
mod refusals;
