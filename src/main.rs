//! The `cairn` program. Everything is in [`cairn::cli`].

fn main() -> std::process::ExitCode {
    cairn::cli::main()
}
