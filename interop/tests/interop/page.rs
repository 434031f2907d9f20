//! The page shows lines that were run.

use std::fs;
use std::path::Path;

use anyhow::Result;

/// Without the indentation that all lines have in common.
fn dedented(text: &str) -> String {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    let common = lines().map(indentation).min().unwrap_or(0);
    text.lines().map(|line| line.get(common..).unwrap_or("").to_owned() + "\n").collect()
}

/// Whether a block is there, line by line, at whatever depth.
fn stands_in(block: &str, source: &str) -> bool {
    let lines: Vec<&str> = source.lines().collect();
    let len = block.lines().count();
    lines.windows(len).any(|window| dedented(&window.join("\n")) == block)
}

fn sources(folder: &Path) -> Result<String> {
    let mut all = String::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            all += &fs::read_to_string(&path)?;
        }
    }
    Ok(all)
}

#[test]
fn every_code_block_of_the_page_is_run_by_a_test() -> Result<()> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(package.join("../docs/interop.md"))?;
    let tested =
        sources(&package.join("tests/interop"))? + &sources(&package.join("examples/relay"))?;

    let blocks: Vec<&str> =
        page.split("```rust\n").skip(1).filter_map(|part| part.split("```").next()).collect();
    let untested: Vec<_> = blocks.iter().filter(|block| !stands_in(block, &tested)).collect();
    assert!(untested.is_empty(), "no test has these lines:\n{untested:#?}");
    assert!(blocks.len() > 20, "{} blocks", blocks.len());
    assert!(!stands_in("let nothing = \"is tested\";\n".repeat(2).as_str(), &tested));
    Ok(())
}
