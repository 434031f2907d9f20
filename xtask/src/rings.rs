//! Finds import rings: modules that need each other, directly or through others.
//!
//! A module is a file; an inline `mod` belongs to the file that it stands in. A module needs every
//! module that *defines* a name it uses: a re-exported name leads to its definition, and a name of
//! another crate to the last module that re-exports it. Uses are `use` declarations and paths in
//! code, macros included. No uses are:
//!
//! * `mod child;`, and a `pub use` from a module's own descendants, unless code uses the name;
//! * what `cfg(test)`, `cfg(doc)` or `cfg(doctest)` keeps out of a build, comments, and `#[doc]`;
//! * an import under `allow(unused_imports)`, unless code uses the name;
//! * the import of a module as such: `use crate::sys;` counts with each `sys::x`.
//!
//! A ring within `a.rs` and `a/` is shown and is no fault: such files are one part of the library.
//!
//! Not seen: which module holds the `impl` of a method, and what the macros of other crates expand
//! to.

mod names;
mod read;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;

use crate::{FAILED, wrong_usage};

pub(crate) fn main(arguments: &[String]) -> Result<u8> {
    let src = match arguments {
        [] => PathBuf::from("src"),
        [src] => PathBuf::from(src),
        _ => return Ok(wrong_usage("usage: cargo xtask rings [SRC]")),
    };
    let graph = Crate::read(&src, &|path| std::fs::read_to_string(path))?.arrows();
    let (families, rings): (Vec<_>, Vec<_>) =
        rings(&graph).into_iter().partition(|ring| is_family(ring));
    for (title, found) in [("family ring (no fault)", &families), ("ring", &rings)] {
        for ring in found {
            println!("{title} of {} modules: {}", ring.len(), ring.join(", "));
            for ((from, to), uses) in &graph {
                if ring.contains(&from.as_str()) && ring.contains(&to.as_str()) {
                    // `Seals` stands for `Seals::GROW`, too.
                    let covered = |name: &str| {
                        name.match_indices("::").any(|(end, _)| uses.contains_key(&name[..end]))
                    };
                    let uses = uses.iter().filter(|(name, _)| !covered(name));
                    let uses: Vec<_> =
                        uses.map(|(name, place)| format!("{name} {place}")).collect();
                    println!("  {from} -> {to}  by {}", uses.join(", "));
                }
            }
            println!();
        }
    }
    println!(
        "rings: {}, largest of {} modules",
        rings.len(),
        rings.iter().map(Vec::len).max().unwrap_or(0)
    );
    Ok(if rings.is_empty() { 0 } else { FAILED })
}

/// For each pair of modules the names that lead from one to the other, with the first place of
/// each.
type Arrows = BTreeMap<(String, String), BTreeMap<String, String>>;

fn rings(arrows: &Arrows) -> Vec<Vec<&str>> {
    let graph: DiGraphMap<&str, ()> =
        arrows.keys().map(|(from, to)| (from.as_str(), to.as_str())).collect();
    let mut rings: Vec<_> = tarjan_scc(&graph).into_iter().filter(|ring| ring.len() > 1).collect();
    rings.iter_mut().for_each(|ring| ring.sort_unstable());
    rings
}

fn is_family(ring: &[&str]) -> bool {
    ring.iter().map(|node| node.split("::").next()).collect::<HashSet<_>>().len() == 1
}

/// A `mod` with its names. Several are one node of the graph if they stand in one file.
#[derive(Default)]
struct Module {
    node: String,
    file: PathBuf,
    /// Where the files of its children are.
    folder: PathBuf,
    parent: Option<usize>,
    names: HashMap<String, Vec<(bool, Meaning)>>,
    /// Whether each is public, and its path.
    globs: Vec<(bool, Vec<String>)>,
    called: HashMap<String, usize>,
}

/// What a name stands for. `Foreign` is the module in which a path leaves this crate.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Meaning {
    Module(usize),
    Item(Item),
    Import(Vec<String>),
    Foreign(usize),
}

/// Where it is defined, and its methods if it is a trait.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Item {
    module: usize,
    /// Whether a path can lead on from it.
    is_type: bool,
    methods: Vec<String>,
}

struct Use {
    module: usize,
    path: Vec<String>,
    line: usize,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Path,
    Macro,
    Import { public: bool, quiet: bool },
    Glob,
}

struct Crate<'a> {
    modules: Vec<Module>,
    uses: Vec<Use>,
    macros: HashMap<String, Vec<usize>>,
    read: &'a dyn Fn(&Path) -> io::Result<String>,
    behind_globs: RefCell<HashMap<(usize, usize), Vec<usize>>>,
    /// The module that is being read.
    here: usize,
    failed: Option<anyhow::Error>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rings of a crate whose files are given as (path, text).
    fn rings_of(files: &[(&str, &str)]) -> Vec<String> {
        let read = |path: &Path| match files.iter().find(|(name, _)| path == Path::new(name)) {
            Some((_, text)) => Ok((*text).to_owned()),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let arrows = Crate::read(Path::new(""), &read).unwrap().arrows();
        rings(&arrows).iter().map(|ring| ring.join(" ")).collect()
    }

    const ROOT: &str = "mod a; mod b; pub use a::A; pub use b::B;";

    #[test]
    fn a_planted_ring_is_found_and_its_cut_is_not() {
        let b = ("b.rs", "pub struct B(crate::a::A);");
        assert_eq!(
            rings_of(&[("lib.rs", ROOT), ("a.rs", "pub struct A; fn f(_: crate::b::B) {}"), b]),
            ["a b"]
        );
        assert!(rings_of(&[("lib.rs", ROOT), ("a.rs", "pub struct A;"), b]).is_empty());
    }

    #[test]
    fn a_reexported_name_leads_to_its_definition() {
        let b = ("b.rs", "use crate::A; pub struct B(A);");
        assert_eq!(
            rings_of(&[("lib.rs", ROOT), ("a.rs", "use crate::B; pub struct A;"), b]),
            ["a b"]
        );
        let through_glob = ("a.rs", "use crate::*; pub struct A; type T = B;");
        assert_eq!(rings_of(&[("lib.rs", ROOT), through_glob, b]), ["a b"]);
    }

    #[test]
    fn uses_in_macros_blocks_and_nested_files_count() {
        let b = ("b.rs", "use crate::A; pub struct B(A);");
        for a in [
            "pub struct A; fn f() { println!(\"{:?}\", crate::b::B::new(1)); }",
            "pub struct A; fn f() { use crate::B as Other; }",
            "pub struct A; mod inline { use super::super::b; fn f() { b::g(); } }",
            "pub struct A; #[cfg(not(test))] use crate::b::B;",
            "pub struct A; #[cfg(any(test, unix))] use crate::b::B;",
        ] {
            assert_eq!(rings_of(&[("lib.rs", ROOT), ("a.rs", a), b]), ["a b"], "{a}");
        }
        let child = ("a/c.rs", "use super::super::B; pub struct D;");
        assert!(
            rings_of(&[("lib.rs", ROOT), ("a.rs", "mod c; pub struct A;"), child, b]).is_empty()
        );
        assert_eq!(
            rings_of(&[("lib.rs", ROOT), ("a.rs", "mod c; pub struct A; use c::D;"), child, b]),
            ["a a::c b"]
        );
    }

    #[test]
    fn tests_docs_and_quiet_imports_do_not_count() {
        let b = ("b.rs", "use crate::A; pub struct B(A);");
        for a in [
            "pub struct A; #[cfg(test)] use crate::B;",
            "pub struct A; #[cfg(all(test, unix))] mod tests { use crate::B; }",
            "pub struct A; impl A { #[cfg(test)] fn f(_: crate::B) {} }",
            "/// [`crate::B`]\npub struct A; // crate::B",
            "pub struct A; #[allow(unused_imports)] use crate::B;",
            "pub struct A; use crate::b;",
        ] {
            assert!(rings_of(&[("lib.rs", ROOT), ("a.rs", a), b]).is_empty(), "{a}");
        }
        let used = "pub struct A; #[allow(unused_imports)] use crate::B; type T = B;";
        assert_eq!(rings_of(&[("lib.rs", ROOT), ("a.rs", used), b]), ["a b"]);
    }

    #[test]
    fn a_ring_of_one_family_is_told_apart() {
        assert!(is_family(&["live", "live::words"]));
        assert!(!is_family(&["live::words", "map"]));
    }
}
