//! Compiled kernels on disk, so that only the first run on a machine waits for the compiler.
//!
//! One file per key in `$CAIRN_CACHE`, else `$XDG_CACHE_HOME/cairn`, else `~/.cache/cairn`. The key covers everything
//! that decides the code: source, shared header, options, architecture and compiler version. A cache that cannot be
//! read or written is no error, only slower.

use std::io::Write;
use std::path::PathBuf;

/// A cache entry.
pub struct Entry(Option<PathBuf>);

impl Entry {
    /// The entry of the code that `parts` decide; `name` makes the file recognisable.
    pub fn new(name: &str, parts: &[String]) -> Entry {
        let file = format!("{name}-{:032x}", hash(parts));
        Entry(folder().map(|folder| folder.join(file)))
    }

    /// What was stored.
    pub fn read(&self) -> Option<Vec<u8>> {
        std::fs::read(self.0.as_ref()?).ok()
    }

    /// Whether there is a folder for it that can be written.
    pub fn is_kept(&self) -> bool {
        let folder = self.0.as_ref().and_then(|path| path.parent());
        folder.is_some_and(|folder| {
            std::fs::create_dir_all(folder).is_ok() && tempfile::tempfile_in(folder).is_ok()
        })
    }

    /// Stores `image`, whole or not at all.
    pub fn write(&self, image: &[u8]) {
        let Some(path) = &self.0 else { return };
        let store = || -> std::io::Result<()> {
            let folder = path.parent().unwrap_or(path);
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(image)?;
            file.persist(path)?;
            Ok(())
        };
        // A read-only home is no reason to stop: the code is compiled again next time.
        let _ = store();
    }
}

fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    set("CAIRN_CACHE")
        .map(PathBuf::from)
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| PathBuf::from(dir).join("cairn")))
        .or_else(|| set("HOME").map(|dir| PathBuf::from(dir).join(".cache/cairn")))
}

/// FNV-1a with 128 bits over the parts and their lengths.
fn hash(parts: &[impl AsRef<str>]) -> u128 {
    let mut state: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let mut take = |byte: u8| {
        state ^= u128::from(byte);
        state = state.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    };
    for part in parts.iter().map(AsRef::as_ref) {
        part.len().to_le_bytes().into_iter().for_each(&mut take);
        part.bytes().for_each(&mut take);
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_parts_apart() {
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_ne!(hash(&["a"]), hash(&["a", ""]));
        assert_eq!(hash(&["a", "b"]), hash(&["a", "b"]));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry(Some(folder.path().join("deeper/relu-1")));
        assert_eq!(entry.read(), None);
        entry.write(b"code");
        assert_eq!(entry.read().as_deref(), Some(&b"code"[..]));
        Entry(None).write(b"nowhere");
    }
}
