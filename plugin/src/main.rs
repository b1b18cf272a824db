//! The binary `reptune`.

/// candle allocates and frees every tensor of every step; glibc hands that memory
/// back to the system each time, mimalloc keeps it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    reptune::cli::main()
}
