use std::process::ExitCode;

fn main() -> ExitCode {
    paligemma::cli::main()
}
