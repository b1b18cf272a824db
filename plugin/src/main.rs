//! The binary `reptune`.

fn main() -> std::process::ExitCode {
    reptune::cli::main()
}
