//! From what people name to files: folders and patterns.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// True for a name that asks for a format which can be read.
pub fn is_scan_name(path: &Path) -> bool {
    super::format_of_name(path).is_ok_and(|format| format.name != super::bin::LABELS.name)
}

/// The part of a path that is a pattern, with `?` for any byte and `*` for any number of them.
fn pattern(path: &Path) -> Option<&[u8]> {
    let name = path.file_name()?.as_encoded_bytes();
    (name.iter().any(|byte| b"*?".contains(byte))).then_some(name)
}

/// True when a path is a folder or a pattern, which may name any number of files.
pub fn names_many(path: &Path) -> bool {
    path.is_dir() || !path.exists() && pattern(path).is_some()
}

/// The files that a path, folder or pattern names, sorted; of a folder those that `wanted` takes.
///
/// # Errors
/// A folder that cannot be read, and a folder or pattern without any file.
pub fn expand(path: &Path, wanted: &dyn Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    if !names_many(path) {
        return Ok(vec![path.to_path_buf()]);
    }
    let pattern = (!path.is_dir()).then(|| pattern(path)).flatten();
    let folder = match pattern {
        Some(_) => path.parent().filter(|p| !p.as_os_str().is_empty()),
        None => Some(path),
    };
    let shown = folder.unwrap_or(Path::new("."));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(shown).map_err(|e| Error::io(shown, e))? {
        let entry = entry.map_err(|e| Error::io(shown, e))?;
        let name = entry.file_name();
        // Without the `./` that nobody wrote.
        let file = folder.map_or(PathBuf::from(&name), |f| f.join(&name));
        let is_wanted = match pattern {
            Some(pattern) => matches(pattern, name.as_encoded_bytes()),
            None => wanted(&file),
        };
        if is_wanted && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(Error::unusable(path, "names no scan"));
    }
    files.sort();
    Ok(files)
}

/// Whether `name` matches `pattern`, in which `?` stands for any byte and `*` for any number of them.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                // The last star takes one byte more.
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    (p, n) = (star + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_like_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.las", "a.las", true),
            ("*.las", "a.laz", false),
            ("a?c*", "abcd", true),
            ("a?c*", "ac", false),
            ("*a*b*", "xaxbx", true),
            ("*a*b", "ab ab", true),
            ("", "", true),
            ("*", "", true),
            ("?", "", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn folders_give_their_scans_and_patterns_what_they_match() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.las", "a.ply", "c.label", "notes.md"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let names = |path: &Path| -> Vec<String> {
            let files = expand(path, &is_scan_name).unwrap();
            let name = |f: &PathBuf| f.file_name().unwrap().to_str().unwrap().to_string();
            files.iter().map(name).collect()
        };
        assert_eq!(names(folder.path()), ["a.ply", "b.las"]);
        assert_eq!(names(&folder.path().join("*s")), ["b.las"]);
        assert_eq!(names(&folder.path().join("none.las")), ["none.las"]);
        let fault = expand(&folder.path().join("*.xyz"), &is_scan_name).unwrap_err();
        assert!(fault.to_string().contains("names no scan"), "{fault}");
    }
}
