//! What names mean, and which modules they lead to.

use std::collections::HashSet;

use super::{Arrows, Crate, Item, Kind, Meaning, Use};

impl Crate<'_> {
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

    pub(super) fn arrows(&self) -> Arrows {
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
