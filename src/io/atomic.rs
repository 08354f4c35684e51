//! Output files that appear whole or not at all.
//!
//! Points go to a temporary file in the folder of the output; only when everything is on the disk does it take the
//! output's name. On any error, and when the writer is dropped, the temporary file goes and an older output stays.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::{Error, Result};

/// A file being written beside its final place.
#[derive(Debug)]
pub struct Atomic {
    target: PathBuf,
    file: BufWriter<NamedTempFile>,
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
            Err(e) if e.kind() == io::ErrorKind::NotFound => path.to_path_buf(),
            Err(e) => return Err(Error::io(path, e)),
        };
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(".cairn-").suffix(".part");
        if let Some(permissions) = permissions_for(&target) {
            builder.permissions(permissions);
        }
        let file = builder.tempfile_in(folder).map_err(|e| {
            // The system error names the temporary file, which means nothing to the user.
            Error::io(
                path,
                io::Error::new(e.kind(), format!("cannot be created: {}", e.kind())),
            )
        })?;
        Ok(Atomic {
            target,
            file: BufWriter::with_capacity(1 << 16, file),
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

    /// Appends bytes.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| self.io(e))
    }

    /// Goes to a byte of the file.
    pub fn go(&mut self, position: u64) -> Result<()> {
        self.file
            .seek(io::SeekFrom::Start(position))
            .map_err(|e| self.io(e))?;
        Ok(())
    }

    /// Puts everything on the disk and the file in its place.
    pub fn finish(self) -> Result<()> {
        let Atomic { target, file } = self;
        let fault = |e| Error::io(&target, e);
        let file = file.into_inner().map_err(|e| fault(e.into_error()))?;
        file.as_file().sync_all().map_err(fault)?;
        file.persist(&target).map_err(|e| fault(e.error))?;
        if let Some(folder) = target.parent().filter(|f| !f.as_os_str().is_empty()) {
            // Makes the new name survive a power cut. Some file systems cannot sync folders; the file itself is safe.
            let _ = File::open(folder).and_then(|f| f.sync_all());
        }
        Ok(())
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
    }
}
