//! Joins the stages to the command line.

#[path = "../stages/mod.rs"]
mod stages;

#[cfg(test)]
#[path = "../fuzz/test.rs"]
mod fuzz;

fn main() -> std::process::ExitCode {
    similiai::interfaces::cli::main(stages::KINDS)
}
