//! The modules of a crate and what they import, read from its sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use proc_macro2::{Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Item, ItemMod, ItemUse, Macro, UseTree};

use crate::files::read_text;

/// The library's name, under which the program imports it.
const LIBRARY: &str = "retromae";

/// An import: one module names an item of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// Path of the importing module, such as `model::layer`; the root's is empty.
    pub from: String,
    pub to: String,
    /// File and line.
    pub place: String,
}

/// Segments from the crate's root.
type ModulePath = Vec<String>;

/// A path as written, with the module that contains it.
struct Named {
    module: ModulePath,
    segments: Vec<String>,
    place: String,
}

/// Names of a crate: modules, imported names and paths.
#[derive(Default)]
struct Names {
    modules: BTreeSet<ModulePath>,
    /// Modules with files of their own; all others are inline in one of these.
    files: BTreeSet<ModulePath>,
    /// Path that a `use` has imported, by module and name.
    imported: BTreeMap<(ModulePath, String), Vec<String>>,
    paths: Vec<Named>,
}

/// Returns all imports of the crate whose `lib.rs` and, if any, `main.rs` lie in `source`.
///
/// # Errors
/// When a file cannot be read or parsed, or a module has no file.
pub fn imports(source: &Path) -> Result<Vec<Import>> {
    let mut names = Names::default();
    for root in ["lib.rs", "main.rs"].map(|name| source.join(name)) {
        if root.exists() {
            names.read(&root, source, &Vec::new())?;
        }
    }
    let mut imports = BTreeSet::new();
    for named in &names.paths {
        let from = names.file_of(&named.module).join("::");
        for to in names.resolve(&named.module, &named.segments) {
            let to = names.file_of(&to).join("::");
            imports.insert(Import { from: from.clone(), to, place: named.place.clone() });
        }
    }
    Ok(imports.into_iter().collect())
}

impl Names {
    /// Reads the file of `module`, and those of its children in `folder`.
    fn read(&mut self, file: &Path, folder: &Path, module: &ModulePath) -> Result<()> {
        let text = read_text(file)?;
        let parsed = syn::parse_file(&text).with_context(|| format!("cannot parse `{}`", file.display()))?;
        self.modules.insert(module.clone());
        self.files.insert(module.clone());
        let mut reader = Reader { names: self, file, module: module.clone(), children: Vec::new() };
        parsed.items.iter().for_each(|item| reader.visit_item(item));
        for child in reader.children {
            let name = &child[child.len() - 1];
            let below = folder.join(name);
            let candidates = [folder.join(format!("{name}.rs")), below.join("mod.rs")];
            let Some(file) = candidates.iter().find(|path| path.exists()) else {
                bail!("module {} has no file in `{}`", child.join("::"), folder.display());
            };
            self.read(file, &below, &child)?;
        }
        Ok(())
    }

    /// Returns the nearest enclosing module with a file.
    fn file_of<'a>(&self, module: &'a [String]) -> &'a [String] {
        let mut module = module;
        while !self.files.contains(module) {
            module = &module[..module.len() - 1];
        }
        module
    }

    /// Returns the modules with a re-export on the path, and the one that defines the item; none for items of other crates.
    fn resolve(&self, module: &[String], segments: &[String]) -> Vec<ModulePath> {
        let mut place = module.to_vec();
        let mut rest = segments;
        let first = segments[0].as_str();
        match first {
            "crate" | LIBRARY => place.clear(),
            "self" | "super" => {}
            _ if self.modules.contains(&child(module, first)) => {}
            _ => return Vec::new(),
        }
        let mut passed = Vec::new();
        while let Some((segment, after)) = rest.split_first() {
            match segment.as_str() {
                "crate" | "self" => {}
                LIBRARY if rest.len() == segments.len() => {}
                "super" => drop(place.pop()),
                name if self.modules.contains(&child(&place, name)) => place.push(name.to_owned()),
                name => {
                    // An item of `place`, or a name imported there.
                    let target = self.imported.get(&(place.clone(), name.to_owned()));
                    let target: Vec<String> = target.into_iter().flatten().chain(after).cloned().collect();
                    passed.push(place.clone());
                    if !target.is_empty() && target[..] != *rest {
                        passed.extend(self.resolve(&place, &target));
                    }
                    return passed;
                }
            }
            rest = after;
        }
        vec![place]
    }
}

fn child(module: &[String], name: &str) -> ModulePath {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

/// Visitor of one file.
struct Reader<'a> {
    names: &'a mut Names,
    file: &'a Path,
    module: ModulePath,
    /// Modules whose files are still to be read.
    children: Vec<ModulePath>,
}

impl Reader<'_> {
    fn add(&mut self, segments: Vec<String>, span: Span) {
        let place = format!("{}:{}", self.file.display(), span.start().line);
        self.names.paths.push(Named { module: self.module.clone(), segments, place });
    }

    /// Adds every path that a `use` spells out, with its local name.
    fn add_use(&mut self, prefix: &[String], tree: &UseTree) {
        let join = |name: &syn::Ident| child(prefix, &name.to_string());
        match tree {
            UseTree::Path(path) => self.add_use(&join(&path.ident), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_use(prefix, tree)),
            UseTree::Glob(glob) => self.add(prefix.to_vec(), glob.star_token.spans[0]),
            UseTree::Name(name) if name.ident == "self" => {
                self.add_name(&prefix[prefix.len() - 1], prefix.to_vec(), name.ident.span());
            }
            UseTree::Name(name) => {
                self.add_name(&name.ident.to_string(), join(&name.ident), name.ident.span());
            }
            UseTree::Rename(rename) => {
                self.add_name(&rename.rename.to_string(), join(&rename.ident), rename.ident.span());
            }
        }
    }

    fn add_name(&mut self, name: &str, segments: Vec<String>, span: Span) {
        self.names.imported.insert((self.module.clone(), name.to_owned()), segments.clone());
        self.add(segments, span);
    }

    /// Adds paths from the crate's root or a parent in a macro's tokens, which are not parsed.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut index = 0;
        while index < tokens.len() {
            match &tokens[index] {
                TokenTree::Group(group) => self.add_tokens(group.stream()),
                TokenTree::Ident(first) if first == "crate" || first == "super" => {
                    let mut segments = vec![first.to_string()];
                    while let Some(name) = segment_after(&tokens[index + 1..]) {
                        segments.push(name);
                        index += 3;
                    }
                    self.add(segments, first.span());
                }
                _ => {}
            }
            index += 1;
        }
    }
}

/// Returns the name after `::`.
fn segment_after(tokens: &[TokenTree]) -> Option<String> {
    match tokens {
        [TokenTree::Punct(first), TokenTree::Punct(second), TokenTree::Ident(name), ..]
            if first.as_char() == ':' && second.as_char() == ':' =>
        {
            Some(name.to_string())
        }
        _ => None,
    }
}

impl<'a> Visit<'a> for Reader<'_> {
    fn visit_item_mod(&mut self, item: &'a ItemMod) {
        let module = child(&self.module, &item.ident.to_string());
        self.names.modules.insert(module.clone());
        match &item.content {
            None => self.children.push(module),
            Some((_, items)) => {
                let parent = std::mem::replace(&mut self.module, module);
                items.iter().for_each(|item: &Item| self.visit_item(item));
                self.module = parent;
            }
        }
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        self.add_use(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // A path from a name in scope was imported by a `use`, which counts already.
        if ["crate", "super", LIBRARY].contains(&segments[0].as_str()) {
            let span = path.segments[0].ident.span();
            self.add(segments, span);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'a Macro) {
        self.add_tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}
