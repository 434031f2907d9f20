//! Checks of this repository that are more than one command.

mod rings;

fn main() -> anyhow::Result<()> {
    let src = std::env::args().nth(1).unwrap_or_else(|| "src".to_owned());
    std::process::exit(if rings::check(std::path::Path::new(&src))? { 0 } else { 1 });
}
