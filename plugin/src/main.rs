//! The binary `reptune`.

/// candle allocates and frees every tensor of every step. glibc returns that memory to the
/// system each time; mimalloc keeps it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps freed memory for ten seconds, so that a step reuses what the last one freed and the
/// system need not clear pages again. `MIMALLOC_PURGE_DELAY` overrides it.
#[allow(unsafe_code)]
fn keep_freed_memory() {
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15; // mi_option_purge_delay of mimalloc.h
    const MILLISECONDS: i64 = 10_000;
    // SAFETY: sets one of the allocator's options before other threads start.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, MILLISECONDS as _) }
}

fn main() -> std::process::ExitCode {
    keep_freed_memory();
    reptune::cli::main()
}
