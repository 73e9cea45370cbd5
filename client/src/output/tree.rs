//! Names that can stand beside each other.

use std::collections::HashMap;

use super::path::SafePath;

/// What stands under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
}

/// Whether `A` and `a` are two names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Case {
    /// They are: on most Linux file systems.
    Distinguished,
    /// They are one: elsewhere.
    Folded,
}

/// Most bytes of names that a tree holds, with those of the folders that they need: a deep path names each of its folders.
const MAX_BYTES: usize = 256 << 20;

/// A set of names, none of which gets in the way of another.
pub struct Tree {
    case: Case,
    bytes: usize,
    places: HashMap<String, Place>,
}

struct Place {
    spelling: String,
    kind: Kind,
    listed: bool,
}

impl Tree {
    /// No names yet.
    pub fn new(case: Case) -> Self {
        Self { case, bytes: 0, places: HashMap::new() }
    }

    /// Takes one more name.
    ///
    /// # Errors
    /// Which name it collides with.
    pub fn insert(&mut self, path: &SafePath, kind: Kind) -> Result<(), Collision> {
        for folder in path.ancestors() {
            let Some(place) = self.places.get(&self.key(folder)) else {
                self.add(folder, Kind::Folder, false)?;
                continue;
            };
            if place.kind != Kind::Folder {
                return Err(Collision::NotAFolder(place.spelling.clone()));
            }
            if place.spelling != folder {
                return Err(Collision::Case(place.spelling.clone()));
            }
            // It came with its own ancestors.
            break;
        }
        let Some(place) = self.places.get_mut(&key(self.case, path.as_str())) else {
            return self.add(path.as_str(), kind, true);
        };
        if place.spelling != path.as_str() {
            return Err(Collision::Case(place.spelling.clone()));
        }
        if place.listed {
            return Err(Collision::Twice);
        }
        if kind != Kind::Folder {
            return Err(Collision::NotAFolder(place.spelling.clone()));
        }
        place.listed = true;
        Ok(())
    }

    fn add(&mut self, path: &str, kind: Kind, listed: bool) -> Result<(), Collision> {
        self.bytes += path.len();
        if self.bytes > MAX_BYTES {
            return Err(Collision::TooMuch);
        }
        self.places.insert(self.key(path), Place { spelling: path.to_owned(), kind, listed });
        Ok(())
    }

    fn key(&self, path: &str) -> String {
        key(self.case, path)
    }
}

fn key(case: Case, path: &str) -> String {
    match case {
        Case::Distinguished => path.to_owned(),
        // Twice, because some letters have several lower-case forms but one upper-case form (ſ, S, s).
        Case::Folded => path.to_uppercase().to_lowercase(),
    }
}

/// Why a name cannot stand beside another.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Collision {
    /// The same name again.
    #[error("the name is there twice")]
    Twice,
    /// The same but for upper and lower case.
    #[error("it differs from “{0}” in upper and lower case only")]
    Case(String),
    /// A file or link where a folder must be.
    #[error("“{0}” would have to be a folder and something else at once")]
    NotAFolder(String),
    /// More names, and folders that they need, than fit.
    #[error("all names together are too long")]
    TooMuch,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_deep_names_do_not_exhaust_the_memory() {
        let mut tree = Tree::new(Case::Distinguished);
        let deep = "/aaaaaaaaaaaaaa".repeat(250);
        let refused = (0..10_000).find_map(|number| {
            let path = SafePath::parse(&format!("{number:06}{deep}")).expect("safe");
            tree.insert(&path, Kind::File).err()
        });
        assert_eq!(refused, Some(Collision::TooMuch));
        assert!(tree.places.values().map(|place| place.spelling.len()).sum::<usize>() <= MAX_BYTES);
    }

    fn insert_all(case: Case, names: &[(&str, Kind)]) -> Result<(), Collision> {
        let mut tree = Tree::new(case);
        names.iter().try_for_each(|(name, kind)| tree.insert(&SafePath::parse(name).expect("safe"), *kind))
    }

    #[test]
    fn names_that_get_in_each_others_way_are_refused() {
        use Kind::{File, Folder, Link};
        for case in [Case::Distinguished, Case::Folded] {
            assert_eq!(insert_all(case, &[("a", File), ("a", File)]), Err(Collision::Twice));
            assert_eq!(insert_all(case, &[("a", Folder), ("a", Folder)]), Err(Collision::Twice));
            assert_eq!(
                insert_all(case, &[("a", File), ("a/b", File)]),
                Err(Collision::NotAFolder("a".into()))
            );
            assert_eq!(
                insert_all(case, &[("a", Link), ("a/b/c", File)]),
                Err(Collision::NotAFolder("a".into()))
            );
            assert_eq!(
                insert_all(case, &[("a/b", File), ("a", Link)]),
                Err(Collision::NotAFolder("a".into()))
            );
            assert_eq!(insert_all(case, &[("a/b", File), ("a", Folder), ("a/c", File)]), Ok(()));
        }
    }

    #[test]
    fn case_collides_only_where_it_is_folded() {
        use Kind::File;
        for names in
            [[("Readme", File), ("README", File)], [("A/x", File), ("a/y", File)], [("ſ", File), ("S", File)]]
        {
            assert_eq!(insert_all(Case::Distinguished, &names), Ok(()));
            assert!(matches!(insert_all(Case::Folded, &names), Err(Collision::Case(_))), "{names:?}");
        }
    }
}
