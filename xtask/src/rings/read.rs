//! Source text to modules, the names in them, and the paths that are used.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};
use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::{Parse, ParseStream, Parser};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, Meta, Token, UseTree, Visibility};

use super::{Crate, Item, Kind, Meaning, Module, Use};

impl<'a> Crate<'a> {
    pub(super) fn read(src: &Path, read: &'a dyn Fn(&Path) -> io::Result<String>) -> Result<Self> {
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
