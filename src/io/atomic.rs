//! Output files that appear whole or not at all.
//!
//! Points go to a temporary file in the folder of the output; only when everything is on the disk does it take the
//! output's name. On any error, and when the writer is dropped, the temporary file goes and an older output stays.
//!
//! Only a process that ends without a chance to clean up, by a power cut or a signal that cannot be caught, leaves its
//! temporary file. The next attempt at the same output removes it: writers that live hold a lock on theirs.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tempfile::NamedTempFile;

use crate::{Error, Result};

static STOP: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on every output of this process is given up once `flag` is set: the temporary file goes, an older output
/// stays, and the writer gets an error that names the output. Only the first flag counts.
pub fn give_up_on(flag: Arc<AtomicBool>) {
    let _ = STOP.set(flag);
}

/// The file with the temporary name. Errors of reading and writing are those of the system: `NamedTempFile` adds the
/// temporary name to them, which means nothing to a user.
#[derive(Debug)]
struct Temporary(NamedTempFile);

impl Write for Temporary {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_file_mut().flush()
    }
}

impl Read for Temporary {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.as_file_mut().read(bytes)
    }
}

impl Seek for Temporary {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.0.as_file_mut().seek(to)
    }
}

/// A file being written beside its final place.
#[derive(Debug)]
pub struct Atomic {
    target: PathBuf,
    file: BufWriter<Temporary>,
    /// All is on the disk, and no interrupt counts any more.
    is_settled: bool,
}

impl Atomic {
    /// Starts the file that will be called `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let target = match fs::metadata(path) {
            Ok(metadata) => {
                check_replaceable(path, &metadata)?;
                // Behind a symbolic link the file is replaced, not the link.
                fs::canonicalize(path).map_err(|e| Error::io(path, e))?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => behind_links(path),
            Err(e) => return Err(Error::io(path, e)),
        };
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let prefix = prefix(&target);
        remove_leftovers(folder, &prefix);
        let file = temporary(folder, &prefix, permissions_for(&target)).map_err(|e| {
            // The system error names the temporary file, which means nothing to the user.
            let fault = format!("cannot be created: {}", e.kind());
            Error::io(path, io::Error::new(e.kind(), fault))
        })?;
        Ok(Atomic {
            target,
            file: BufWriter::with_capacity(1 << 16, Temporary(file)),
            is_settled: false,
        })
    }

    /// The final name.
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// An operating-system error while writing this file.
    pub fn io(&self, e: io::Error) -> Error {
        Error::io(&self.target, e)
    }

    /// See [`give_up_on`].
    fn check_stop(&self) -> Result<()> {
        match STOP.get().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            false => Ok(()),
            true => Err(Error::unusable(
                &self.target,
                "interrupted while it was written; what was there before is unchanged",
            )),
        }
    }

    /// Appends bytes.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.check_stop()?;
        self.file.write_all(bytes).map_err(|e| self.io(e))
    }

    /// Goes to a byte of the file.
    pub fn go(&mut self, position: u64) -> Result<()> {
        self.file
            .seek(io::SeekFrom::Start(position))
            .map_err(|e| self.io(e))?;
        Ok(())
    }

    /// Puts everything so far on the disk, so that what may still fail is the change of the name. For outputs that
    /// change together: an interrupt that comes later ends none of them.
    pub fn settle(&mut self) -> Result<()> {
        self.check_stop()?;
        let done = self
            .file
            .flush()
            .and_then(|()| self.file.get_ref().0.as_file().sync_all());
        self.is_settled = true;
        done.map_err(|e| self.io(e))
    }

    /// Puts everything on the disk and the file in its place.
    pub fn finish(self) -> Result<()> {
        if !self.is_settled {
            self.check_stop()?;
        }
        let Atomic { target, file, .. } = self;
        let fault = |e| Error::io(&target, e);
        let Temporary(file) = file.into_inner().map_err(|e| fault(e.into_error()))?;
        file.as_file().sync_all().map_err(fault)?;
        file.persist(&target).map_err(|e| fault(e.error))?;
        if let Some(folder) = target.parent().filter(|f| !f.as_os_str().is_empty()) {
            // Makes the new name survive a power cut. Some file systems cannot sync folders; the file itself is safe.
            let _ = File::open(folder).and_then(|f| f.sync_all());
        }
        Ok(())
    }
}

/// More symbolic links in a row than any system follows.
const LINKS: usize = 40;

/// Where a path leads whose file is not there yet: through symbolic links that point at nothing.
fn behind_links(path: &Path) -> PathBuf {
    let mut end = path.to_path_buf();
    for _ in 0..LINKS {
        let Ok(next) = fs::read_link(&end) else { break };
        // A relative link counts from its own folder.
        end.set_file_name(next);
    }
    end
}

const SUFFIX: &str = ".part";

/// How the names of the temporary files of one output start; long names are cut to what every file system takes.
fn prefix(target: &Path) -> String {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    format!(".cairn-{}-", name.chars().take(40).collect::<String>())
}

/// Makes a temporary file that is locked as long as it is open.
fn temporary(
    folder: &Path,
    prefix: &str,
    permissions: Option<Permissions>,
) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(prefix).suffix(SUFFIX);
    if let Some(permissions) = permissions {
        builder.permissions(permissions);
    }
    loop {
        let file = builder.tempfile_in(folder)?;
        // On file systems without locks nothing is locked, and nothing is taken for a leftover either.
        let _ = file.as_file().lock();
        // Before it was locked, another process may have taken it for a leftover.
        if file.path().exists() {
            return Ok(file);
        }
    }
}

/// Removes temporary files of this output whose writers are dead. What cannot be read, locked or removed stays: it is in
/// nobody's way.
fn remove_leftovers(folder: &Path, prefix: &str) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_ours = name.starts_with(prefix) && name.ends_with(SUFFIX);
        if !(is_ours && entry.file_type().is_ok_and(|kind| kind.is_file())) {
            continue;
        }
        if let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn check_replaceable(path: &Path, metadata: &fs::Metadata) -> Result<()> {
    if !metadata.is_file() {
        return Err(Error::unusable(
            path,
            "exists and is not a regular file; choose another output",
        ));
    }
    if metadata.permissions().readonly() {
        return Err(Error::unusable(
            path,
            "exists and is read-only; choose another output or make it writable",
        ));
    }
    Ok(())
}

/// The permissions of the file that will be replaced, or those of any new file.
#[cfg(unix)]
fn permissions_for(target: &Path) -> Option<Permissions> {
    use std::os::unix::fs::PermissionsExt;
    Some(match fs::metadata(target) {
        Ok(metadata) => metadata.permissions(),
        Err(_) => Permissions::from_mode(0o666),
    })
}

#[cfg(not(unix))]
fn permissions_for(_target: &Path) -> Option<Permissions> {
    None
}

impl Write for Atomic {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What was written can be read again: some formats mend their pages.
impl Read for Atomic {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.file.flush()?;
        self.file.get_mut().read(bytes)
    }
}

impl Seek for Atomic {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn dropped_output_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ply");
        fs::write(&path, "old").unwrap();
        let mut output = Atomic::create(&path).unwrap();
        output.put(b"new").unwrap();
        assert_eq!(files(folder.path()).len(), 2);
        drop(output);
        assert_eq!(files(folder.path()), ["a.ply"]);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let mut output = Atomic::create(&path).unwrap();
        output.put(b"new").unwrap();
        output.finish().unwrap();
        assert_eq!(files(folder.path()), ["a.ply"]);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn what_dead_writers_left_goes_and_what_living_ones_write_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ply");
        let mut slow = Atomic::create(&path).unwrap();
        slow.put(b"slow").unwrap();
        let [of_slow] = &files(folder.path())[..] else {
            panic!("one temporary file was made");
        };
        let left = |name: &str| fs::write(folder.path().join(name), "half").unwrap();
        left(".cairn-a.ply-x1y2z3.part");
        left(".cairn-b.ply-x1y2z3.part");
        left(".cairn-a.ply-notes.txt");
        let fast = Atomic::create(&path).unwrap();
        let names = files(folder.path());
        assert!(names.contains(of_slow), "{names:?}");
        assert!(!names.contains(&".cairn-a.ply-x1y2z3.part".into()));
        fast.finish().unwrap();
        slow.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"slow");
        let others = [".cairn-a.ply-notes.txt", ".cairn-b.ply-x1y2z3.part"];
        assert_eq!(files(folder.path()), [others[0], others[1], "a.ply"]);
    }

    #[test]
    fn names_of_any_length_can_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ä".repeat(125) + ".ply");
        Atomic::create(&path).unwrap().finish().unwrap();
        assert!(path.exists());
    }

    #[test]
    fn read_only_folders_and_devices_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ply");
        fs::write(&path, "old").unwrap();
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(true);
        fs::set_permissions(&path, permissions).unwrap();
        let fault = Atomic::create(&path).unwrap_err().to_string();
        assert!(fault.contains("read-only"), "{fault}");
        let fault = Atomic::create(folder.path()).unwrap_err().to_string();
        assert!(fault.contains("not a regular file"), "{fault}");
        let missing = folder.path().join("no/such/a.ply");
        let fault = Atomic::create(&missing).unwrap_err();
        assert!(matches!(fault, Error::Io { .. }), "{fault}");
    }

    #[cfg(unix)]
    #[test]
    fn output_behind_a_link_replaces_the_file_and_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ply");
        let link = folder.path().join("link.ply");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut output = Atomic::create(&link).unwrap();
        output.put(b"new").unwrap();
        output.finish().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        // A link to a file that is not there yet makes that file.
        fs::remove_file(&path).unwrap();
        let second = folder.path().join("second.ply");
        std::os::unix::fs::symlink("link.ply", &second).unwrap();
        Atomic::create(&second).unwrap().finish().unwrap();
        assert!(fs::symlink_metadata(&second).unwrap().is_symlink());
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }
}
