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

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;
use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, Meta, Token, UseTree, Visibility};

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

impl<'a> Crate<'a> {
    fn read(src: &Path, read: &'a dyn Fn(&Path) -> io::Result<String>) -> Result<Self> {
        let mut it = Self {
            modules: Vec::new(),
            uses: Vec::new(),
            macros: HashMap::new(),
            read,
            behind_globs: RefCell::default(),
            here: 0,
            failed: None,
        };
        let text =
            read(&src.join("lib.rs")).with_context(|| format!("{}/lib.rs", src.display()))?;
        it.modules.push(Module {
            node: "crate".to_owned(),
            file: src.join("lib.rs"),
            folder: src.to_owned(),
            ..Module::default()
        });
        it.file(&text);
        match it.failed.take() {
            Some(error) => Err(error),
            None => Ok(it),
        }
    }

    fn file(&mut self, text: &str) {
        match syn::parse_file(text) {
            Ok(file) => self.visit_file(&file),
            Err(error) => self.fail(format!("line {}: {error}", error.span().start().line)),
        }
    }

    fn fail(&mut self, what: String) {
        let file = &self.modules[self.here].file;
        self.failed.get_or_insert_with(|| anyhow::anyhow!("{}: {what}", file.display()));
    }

    fn define(&mut self, name: &Ident, public: bool, meaning: Meaning) {
        self.modules[self.here].names.entry(name.to_string()).or_default().push((public, meaning));
    }

    fn item(&mut self, name: &Ident, vis: &Visibility, is_type: bool, methods: Vec<String>) {
        self.define(
            name,
            is_public(vis),
            Meaning::Item(Item { module: self.here, is_type, methods }),
        );
    }

    fn import(&mut self, tree: &UseTree, mut path: Vec<String>, public: bool, quiet: bool) {
        let (name, ident) = match tree {
            UseTree::Path(inner) => {
                path.push(inner.ident.to_string());
                return self.import(&inner.tree, path, public, quiet);
            }
            UseTree::Group(group) => {
                return group
                    .items
                    .iter()
                    .for_each(|tree| self.import(tree, path.clone(), public, quiet));
            }
            UseTree::Glob(glob) => {
                self.modules[self.here].globs.push((public, path.clone()));
                return self.path(path, glob.star_token.spans[0].start().line, Kind::Glob);
            }
            UseTree::Name(name) => (&name.ident, &name.ident),
            UseTree::Rename(rename) => (&rename.rename, &rename.ident),
        };
        if ident != "self" {
            path.push(ident.to_string());
        }
        let name = if name == "self" {
            path.last().cloned().unwrap_or_default()
        } else {
            name.to_string()
        };
        if name != "_" {
            let import = (public, Meaning::Import(path.clone()));
            self.modules[self.here].names.entry(name).or_default().push(import);
        }
        self.path(path, ident.span().start().line, Kind::Import { public, quiet });
    }

    fn path(&mut self, path: Vec<String>, line: usize, kind: Kind) {
        self.uses.push(Use { module: self.here, path, line, kind });
    }

    /// The paths in what no parser but the macro's own understands.
    fn tokens(&mut self, tokens: TokenStream, shortest: usize) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let punct = |at: usize, sign| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == sign);
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) => self.tokens(group.stream(), shortest),
                TokenTree::Ident(first) => {
                    let after_dot = at > 0 && punct(at - 1, '.') && !(at > 1 && punct(at - 2, '.'));
                    let variable = at > 0 && punct(at - 1, '$') && first != "crate";
                    let rooted = at > 0 && punct(at - 1, ':') && at > 1 && punct(at - 2, ':');
                    let mut path = vec![first.to_string()];
                    while let (true, true, Some(TokenTree::Ident(next))) =
                        (punct(at + 1, ':'), punct(at + 2, ':'), tokens.get(at + 3))
                    {
                        path.push(next.to_string());
                        at += 3;
                    }
                    let kind = if punct(at + 1, '!') { Kind::Macro } else { Kind::Path };
                    if after_dot {
                        self.called(first);
                    } else if !variable && !rooted && path.len() >= shortest {
                        self.path(path, first.span().start().line, kind);
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }

    fn called(&mut self, method: &Ident) {
        let line = method.span().start().line;
        self.modules[self.here].called.entry(method.to_string()).or_insert(line);
    }

    fn descend(&mut self, item: &syn::ItemMod) -> Result<()> {
        let outer = self.here;
        let parent = &self.modules[outer];
        let name = item.ident.to_string();
        let node =
            if parent.node == "crate" { name.clone() } else { format!("{}::{name}", parent.node) };
        let folder = parent.folder.join(&name);
        if let Some((_, items)) = &item.content {
            let inline = Module {
                node: parent.node.clone(),
                file: parent.file.clone(),
                folder,
                ..Module::default()
            };
            self.enter(item, inline, |it| items.iter().for_each(|item| it.visit_item(item)));
            return Ok(());
        }
        // One `mod` may have a file for each of several platforms.
        let mut files = vec![
            (parent.folder.join(format!("{name}.rs")), folder.clone()),
            (folder.join("mod.rs"), folder),
        ];
        for (always, path) in item.attrs.iter().filter_map(path_attribute) {
            let file = parent.file.with_file_name(path);
            if always {
                files.clear();
            }
            files.push((file.clone(), file.parent().unwrap_or(Path::new("")).to_owned()));
        }
        let before = self.modules.len();
        for (file, folder) in files {
            if let Ok(text) = (self.read)(&file) {
                let module = Module { node: node.clone(), file, folder, ..Module::default() };
                self.enter(item, module, |it| it.file(&text));
            }
        }
        if self.modules.len() == before {
            bail!("no file for `mod {name};`");
        }
        Ok(())
    }

    fn enter(&mut self, item: &syn::ItemMod, module: Module, visit: impl FnOnce(&mut Self)) {
        let (outer, inner) = (self.here, self.modules.len());
        self.define(&item.ident, is_public(&item.vis), Meaning::Module(inner));
        self.modules.push(Module { parent: Some(outer), ..module });
        self.here = inner;
        visit(self);
        self.here = outer;
    }

    // ---- What names mean ----------------------------------------

    fn lies_in(&self, mut module: usize, ancestor: usize) -> bool {
        while module != ancestor {
            let Some(parent) = self.modules[module].parent else { return false };
            module = parent;
        }
        true
    }

    /// What a name means in a module, behind its globs where it is not declared in the module
    /// itself.
    fn within(
        &self,
        module: usize,
        name: &str,
        seen: &mut HashSet<(usize, String)>,
    ) -> HashSet<Meaning> {
        self.visible(module, module, name, seen)
    }

    fn visible(
        &self,
        from: usize,
        at: usize,
        name: &str,
        seen: &mut HashSet<(usize, String)>,
    ) -> HashSet<Meaning> {
        let key = (at, name.to_owned());
        if !seen.insert(key.clone()) {
            return HashSet::new();
        }
        let whole = self.lies_in(from, at);
        let module = &self.modules[at];
        let mut found = HashSet::new();
        for (public, meaning) in module.names.get(name).into_iter().flatten() {
            match meaning {
                _ if !whole && !public => {}
                Meaning::Import(path) => found.extend(self.resolve(at, path, seen)),
                known => drop(found.insert(known.clone())),
            }
        }
        if found.is_empty() {
            for (number, (public, _)) in module.globs.iter().enumerate() {
                if whole || *public {
                    for target in self.behind_glob(at, number) {
                        found.extend(self.visible(from, target, name, seen));
                    }
                }
            }
        }
        seen.remove(&key);
        found
    }

    fn behind_glob(&self, module: usize, number: usize) -> Vec<usize> {
        let key = (module, number);
        if let Some(known) = self.behind_globs.borrow().get(&key) {
            return known.clone();
        }
        // For globs that lead to themselves.
        self.behind_globs.borrow_mut().insert(key, Vec::new());
        let found =
            self.resolve(module, &self.modules[module].globs[number].1, &mut HashSet::new());
        let modules = found.into_iter().filter_map(|meaning| match meaning {
            Meaning::Module(target) => Some(target),
            _ => None,
        });
        let modules: Vec<_> = modules.collect();
        self.behind_globs.borrow_mut().insert(key, modules.clone());
        modules
    }

    fn resolve(
        &self,
        module: usize,
        path: &[String],
        seen: &mut HashSet<(usize, String)>,
    ) -> HashSet<Meaning> {
        let mut rest = path.iter().map(String::as_str).peekable();
        let first = rest.next().unwrap_or_default();
        let mut found = match first {
            "crate" => HashSet::from([Meaning::Module(0)]),
            "self" | "super" => {
                let mut at = Some(module);
                if first == "super" {
                    at = self.modules[module].parent;
                }
                while rest.next_if_eq(&"super").is_some() {
                    at = at.and_then(|at| self.modules[at].parent);
                }
                at.into_iter().map(Meaning::Module).collect()
            }
            "Self" => return HashSet::new(),
            name => self.within(module, name, seen),
        };
        if found.is_empty() {
            return HashSet::from([Meaning::Foreign(module)]);
        }
        for segment in rest {
            let (mut step, mut gaps) = (HashSet::new(), HashSet::new());
            for meaning in found {
                match meaning {
                    Meaning::Module(target) => {
                        let inner = self.within(target, segment, seen);
                        if inner.is_empty() {
                            gaps.insert(Meaning::Foreign(target));
                        }
                        step.extend(inner);
                    }
                    Meaning::Item(Item { is_type: false, .. }) => {}
                    // A variant or an associated item belongs to its type.
                    other => drop(step.insert(other)),
                }
            }
            found = if step.is_empty() { gaps } else { step };
        }
        found
    }

    /// The traits that a glob, or an import that does not count by itself, brings in for a method
    /// that is called.
    fn by_method<'s>(&'s self, from: usize, item: &'s Item) -> Option<(String, usize)> {
        let called = &self.modules[from].called;
        item.methods.iter().find_map(|method| Some((format!("{method}?"), *called.get(method)?)))
    }

    fn arrows(&self) -> Arrows {
        let mut arrows = Arrows::new();
        let mut add = |from: usize, to: usize, name: &str, line: usize| {
            let (source, target) = (&self.modules[from], &self.modules[to]);
            if source.node != target.node {
                let names = arrows.entry((source.node.clone(), target.node.clone())).or_default();
                names
                    .entry(name.to_owned())
                    .or_insert_with(|| format!("{}:{line}", source.file.display()));
            }
        };
        for Use { module, path, line, kind } in &self.uses {
            let node = &self.modules[*module].node;
            let shown = match kind {
                Kind::Import { .. } => path.last().cloned().unwrap_or_default(),
                _ => path.join("::"),
            };
            let mut found = self.resolve(*module, path, &mut HashSet::new());
            if let (Kind::Macro, [name]) = (kind, path.as_slice())
                && let Some(defined) = self.macros.get(name)
                && found == HashSet::from([Meaning::Foreign(*module)])
            {
                found = defined
                    .iter()
                    .map(|&module| {
                        Meaning::Item(Item { module, is_type: false, methods: Vec::new() })
                    })
                    .collect();
            }
            for meaning in found {
                match (kind, meaning) {
                    (Kind::Glob, Meaning::Module(target)) => {
                        for name in self.modules[target].names.keys() {
                            for meaning in self.visible(*module, target, name, &mut HashSet::new())
                            {
                                if let Meaning::Item(item) = meaning
                                    && let Some((method, line)) = self.by_method(*module, &item)
                                {
                                    add(*module, item.module, &method, line);
                                }
                            }
                        }
                    }
                    (Kind::Glob, Meaning::Foreign(_)) => {}
                    (Kind::Import { public, quiet }, meaning) => {
                        let (target, item) = match meaning {
                            Meaning::Item(item) => (item.module, Some(item)),
                            Meaning::Foreign(target) => (target, None),
                            _ => continue,
                        };
                        let target_node = &self.modules[target].node;
                        let own = *public
                            && (node == "crate" || target_node.starts_with(&format!("{node}::")));
                        if !own && !quiet {
                            add(*module, target, &shown, *line);
                        } else if let Some((method, line)) =
                            item.and_then(|item| self.by_method(*module, &item))
                        {
                            add(*module, target, &method, line);
                        }
                    }
                    (Kind::Path | Kind::Macro, Meaning::Module(target)) if path.len() > 1 => {
                        add(*module, target, &shown, *line);
                    }
                    (_, Meaning::Item(Item { module: target, .. }) | Meaning::Foreign(target)) => {
                        add(*module, target, &shown, *line);
                    }
                    (_, Meaning::Module(_) | Meaning::Import(_)) => {}
                }
            }
        }
        arrows
    }
}

fn is_public(vis: &Visibility) -> bool {
    !matches!(vis, Visibility::Inherited)
}

fn names(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect()
}

/// The attributes at the beginning of whatever stands in source text.
struct Attributes(Vec<Attribute>);

impl Parse for Attributes {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attributes = input.call(Attribute::parse_outer)?;
        input.parse::<TokenStream>()?;
        Ok(Self(attributes))
    }
}

fn attributes_of(node: &impl ToTokens) -> Vec<Attribute> {
    syn::parse2::<Attributes>(node.to_token_stream()).map_or_else(|_| Vec::new(), |found| found.0)
}

/// Whether a `cfg` among the attributes is false in every ordinary build.
fn never_built(attributes: &[Attribute]) -> bool {
    fn value(condition: &Meta) -> Option<bool> {
        let Meta::List(list) = condition else {
            let never =
                ["test", "doc", "doctest"].iter().any(|name| condition.path().is_ident(name));
            return never.then_some(false);
        };
        let parts =
            Punctuated::<Meta, Token![,]>::parse_terminated.parse2(list.tokens.clone()).ok()?;
        let parts: Vec<_> = parts.iter().map(value).collect();
        let settled = |by| parts.contains(&Some(by)).then_some(by);
        let all = |by| parts.iter().all(|part| *part == Some(by)).then_some(by);
        match list.path.get_ident()?.to_string().as_str() {
            "not" => parts.first()?.map(|value| !value),
            "all" => settled(false).or_else(|| all(true)),
            "any" => settled(true).or_else(|| all(false)),
            _ => None,
        }
    }
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"))
        .filter_map(|attribute| attribute.parse_args::<Meta>().ok())
        .any(|condition| value(&condition) == Some(false))
}

/// The file that an attribute gives to a `mod`, and whether it does so on every platform.
fn path_attribute(attribute: &Attribute) -> Option<(bool, String)> {
    let conditional =
        || attribute.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok();
    let metas: Vec<_> = match attribute.path().is_ident("cfg_attr") {
        true => conditional()?.into_iter().skip(1).collect(),
        false => vec![attribute.meta.clone()],
    };
    metas.iter().find_map(|meta| match meta {
        Meta::NameValue(syn::MetaNameValue { path, value: syn::Expr::Lit(value), .. })
            if path.is_ident("path") =>
        {
            let syn::Lit::Str(file) = &value.lit else { return None };
            Some((attribute.path().is_ident("path"), file.value()))
        }
        _ => None,
    })
}

/// Whether an attribute allows the import to stand unused.
fn is_quiet(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        (attribute.path().is_ident("allow") || attribute.path().is_ident("expect"))
            && attribute.to_token_stream().to_string().contains("unused")
    })
}

/// Passes over what no ordinary build has.
macro_rules! built_only {
    ($($visit:ident: $Node:ident),*) => {
        $(fn $visit(&mut self, node: &'ast syn::$Node) {
            if !never_built(&attributes_of(node)) {
                visit::$visit(self, node);
            }
        })*
    };
}

/// Notes an item's name before looking into it.
macro_rules! items {
    ($($visit:ident: $Item:ident),*) => {
        $(fn $visit(&mut self, item: &'ast syn::$Item) {
            self.item(&item.ident, &item.vis, true, Vec::new());
            visit::$visit(self, item);
        })*
    };
}

impl<'ast> Visit<'ast> for Crate<'_> {
    built_only!(
        visit_item: Item, visit_impl_item: ImplItem, visit_trait_item: TraitItem, visit_foreign_item: ForeignItem,
        visit_stmt: Stmt, visit_expr: Expr, visit_arm: Arm, visit_field: Field, visit_variant: Variant,
        visit_field_value: FieldValue
    );
    items!(
        visit_item_struct: ItemStruct, visit_item_enum: ItemEnum, visit_item_union: ItemUnion,
        visit_item_type: ItemType, visit_item_const: ItemConst, visit_item_static: ItemStatic,
        visit_item_trait_alias: ItemTraitAlias
    );

    fn visit_file(&mut self, file: &'ast syn::File) {
        if !never_built(&file.attrs) {
            visit::visit_file(self, file);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.item(&item.sig.ident, &item.vis, false, Vec::new());
        visit::visit_item_fn(self, item);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        let methods = item.items.iter().filter_map(|item| match item {
            syn::TraitItem::Fn(method) => Some(method.sig.ident.to_string()),
            _ => None,
        });
        self.item(&item.ident, &item.vis, true, methods.collect());
        visit::visit_item_trait(self, item);
    }

    fn visit_item_macro(&mut self, item: &'ast syn::ItemMacro) {
        if let Some(name) = &item.ident {
            self.item(name, &Visibility::Inherited, false, Vec::new());
            self.macros.entry(name.to_string()).or_default().push(self.here);
        } else if let Ok(declared) = syn::parse2::<syn::File>(item.mac.tokens.clone()) {
            // Taken as declared whatever the macro makes of it.
            declared.items.iter().for_each(|item| Crate::visit_item(self, item));
        }
        visit::visit_item_macro(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if let Err(error) = self.descend(item) {
            self.fail(format!("{error:#}"));
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if item.leading_colon.is_none() {
            self.import(&item.tree, Vec::new(), is_public(&item.vis), is_quiet(&item.attrs));
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let (None, Some(first)) = (path.leading_colon, path.segments.first()) {
            self.path(names(path), first.ident.span().start().line, Kind::Path);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if let (None, Some(first)) = (call.path.leading_colon, call.path.segments.first()) {
            self.path(names(&call.path), first.ident.span().start().line, Kind::Macro);
        }
        self.tokens(call.tokens.clone(), 1);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if !["doc", "cfg"].iter().any(|name| attribute.path().is_ident(name)) {
            self.tokens(attribute.meta.to_token_stream(), 2);
        }
    }

    fn visit_expr_path(&mut self, path: &'ast syn::ExprPath) {
        if let (true, Some(last)) = (path.path.segments.len() > 1, path.path.segments.last()) {
            self.called(&last.ident);
        }
        visit::visit_expr_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        self.called(&call.method);
        visit::visit_expr_method_call(self, call);
    }

    /// `pub(in path)` uses nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
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
