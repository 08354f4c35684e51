//! Which scans are labelled, and where the results go.

use crate::error::path_text;
use crate::io;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What the name of a labelled scan beside its input ends with.
const SUFFIX: &str = "_labelled";

/// One scan to label.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub input: PathBuf,
    pub output: PathBuf,
}

/// All scans of a run.
#[derive(Debug, PartialEq)]
pub struct Jobs {
    pub list: Vec<Job>,
    /// True when a fault of one does not stop the others and finished ones are left alone.
    pub many: bool,
    /// Results of an earlier run that were among the inputs.
    pub results: usize,
}

/// Whether a folder's file is worth a try.
fn is_scan(path: &Path) -> bool {
    io::is_scan_name(path) || has_extension(path, "mcap")
}

pub fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case(wanted))
}

/// What a run must not write over.
enum Kept<'a> {
    /// A scan that is labelled.
    Scan(&'a Path),
    /// A file that was named, but is the result of a scan that was named, too.
    Result,
    /// The labels that came with a scan.
    LabelsOf(&'a Path),
}

impl Jobs {
    /// Finds the scans; `to` is the extension of the outputs in place of the inputs' own. Finished scans are left alone
    /// unless all are labelled `again`.
    ///
    /// # Errors
    /// Folders that cannot be read or hold no scan, and outputs that would fall on each other, on an input or on the labels
    /// of one. These are mistakes of the command, which no scan's turn can mend: nothing is labelled then.
    pub fn new(
        inputs: &[PathBuf],
        output: Option<&Path>,
        to: Option<&str>,
        again: bool,
    ) -> Result<Jobs> {
        let (scans, results) = find(inputs, output.is_some())?;
        let is_folder = output.is_some_and(|o| o.is_dir() || ends_like_a_folder(o));
        let many = inputs.len() > 1 || is_folder || inputs.iter().any(|i| io::names_many(i));
        let list = match (many, output) {
            (false, Some(output)) => vec![single(&scans[0], output, to)?],
            (_, Some(output)) if output.exists() && !output.is_dir() => {
                let fault = "is a file; several inputs need a folder as output";
                return Err(Error::unusable(output, fault));
            }
            _ => place(scans, output, to)?,
        };
        let jobs = Jobs {
            list,
            many,
            results: results.len(),
        };
        let named = results.iter().filter(|r| r.is_named);
        jobs.check_losses(named.map(|r| r.path.as_path()), again)?;
        if let Some(output) = output.filter(|_| many) {
            std::fs::create_dir_all(output).map_err(|e| Error::io(output, e))?;
        }
        Ok(jobs)
    }

    /// Refuses outputs that would replace what the user has: an input, or the labels that came with one.
    fn check_losses<'a>(
        &'a self,
        results: impl Iterator<Item = &'a Path>,
        again: bool,
    ) -> Result<()> {
        let mut kept: BTreeMap<PathBuf, Kept<'_>> = BTreeMap::new();
        for Job { input, .. } in &self.list {
            let labels = labels_of(input).filter(|labels| labels.exists());
            kept.extend(labels.map(|labels| (real(&labels), Kept::LabelsOf(input))));
        }
        kept.extend(results.map(|result| (real(result), Kept::Result)));
        kept.extend((self.list.iter()).map(|job| (real(&job.input), Kept::Scan(&job.input))));
        for job in &self.list {
            for file in [Some(job.output.clone()), labels_of(&job.output)] {
                let Some(file) = file else { continue };
                let what = match kept.get(&real(&file)) {
                    None => continue,
                    // Of one scan the user gave both names.
                    Some(Kept::Scan(scan)) if *scan == job.input && !self.many => continue,
                    Some(Kept::Scan(scan)) if *scan == job.input => {
                        let fault = "would be written over itself; choose another folder, or leave --output out";
                        return Err(Error::unusable(scan, fault));
                    }
                    // Nothing is written.
                    Some(Kept::Result) if !again && job.is_done() => continue,
                    Some(Kept::Scan(_) | Kept::Result) => "which is an input, too".to_string(),
                    Some(Kept::LabelsOf(scan)) => format!("the labels of {}", path_text(scan)),
                };
                let file = path_text(&file);
                let fault =
                    format!("its output would replace {file}, {what}; write elsewhere with -o");
                return Err(Error::unusable(&job.input, fault));
            }
        }
        Ok(())
    }
}

/// A file that an input names.
struct Found {
    path: PathBuf,
    /// By its own name, as far as this program can see: a shell may have made it of a pattern.
    is_named: bool,
}

/// The scans that the inputs name, and the results of an earlier run among them: those lie beside their scans, which have to
/// be named, too. Where results go `elsewhere`, a file that is named by its own name is a scan.
fn find(inputs: &[PathBuf], elsewhere: bool) -> Result<(Vec<PathBuf>, Vec<Found>)> {
    let mut found = Vec::new();
    for input in inputs {
        let is_named = !io::names_many(input);
        let files = io::expand(input, &is_scan)?.into_iter();
        found.extend(files.map(|path| Found { path, is_named }));
    }
    let of_scans: BTreeSet<PathBuf> = found.iter().map(|f| result_of(&f.path)).collect();
    let is_result =
        |f: &Found| of_scans.contains(&f.path.with_extension("")) && !(elsewhere && f.is_named);
    let (results, scans): (Vec<_>, Vec<_>) = found.into_iter().partition(is_result);
    Ok((scans.into_iter().map(|f| f.path).collect(), results))
}

/// The result of a scan beside it, without extension.
fn result_of(scan: &Path) -> PathBuf {
    let mut name = scan.file_stem().unwrap_or_default().to_os_string();
    name.push(SUFFIX);
    scan.with_file_name(name)
}

/// The label file that is read and written with a frame, whether it exists or not.
fn labels_of(path: &Path) -> Option<PathBuf> {
    has_extension(path, "bin").then(|| io::bin::label_path(path))
}

/// True for a name that ends with a slash.
fn ends_like_a_folder(path: &Path) -> bool {
    let last = path.as_os_str().as_encoded_bytes().last();
    last.is_some_and(|byte| std::path::is_separator(char::from(*byte)))
}

/// Where a path leads, whether a file is there or not.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| {
        let folder = path.parent().filter(|f| !f.as_os_str().is_empty());
        let folder = std::fs::canonicalize(folder.unwrap_or(Path::new(".")));
        match (folder, path.file_name()) {
            (Ok(folder), Some(name)) => folder.join(name),
            _ => path.to_path_buf(),
        }
    })
}

/// The one scan and the output that was named for it.
fn single(input: &Path, output: &Path, to: Option<&str>) -> Result<Job> {
    if to.is_some() {
        let fault = "the name of the output decides its format; leave one of the two out";
        return Err(Error::argument("to", fault));
    }
    if output.extension().is_none() {
        let fault = "the name has no ending that says the format; a new folder ends with /";
        return Err(Error::unusable(output, fault));
    }
    Ok(Job {
        input: input.to_path_buf(),
        output: output.to_path_buf(),
    })
}

/// Gives every input its output.
fn place(scans: Vec<PathBuf>, folder: Option<&Path>, to: Option<&str>) -> Result<Vec<Job>> {
    let mut taken: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    let mut list = Vec::new();
    for input in scans {
        let own = input.extension().unwrap_or_default();
        let extension = to.map_or(own, |to| OsStr::new(to.trim_start_matches('.')));
        let mut name = input.file_stem().unwrap_or_default().to_os_string();
        if folder.is_none() {
            name.push(SUFFIX);
        }
        if !extension.is_empty() {
            name.push(".");
            name.push(extension);
        }
        let output = match folder {
            Some(folder) => folder.join(name),
            None => input.with_file_name(name),
        };
        if let Some(first) = taken.insert(real(&output), input.clone()) {
            let fault = match real(&first) == real(&input) {
                true => "is named twice".to_string(),
                false => format!(
                    "would be written to {}, and so would {}; label them into two folders",
                    path_text(&output),
                    path_text(&first)
                ),
            };
            return Err(Error::unusable(input, fault));
        }
        list.push(Job { input, output });
    }
    Ok(list)
}

impl Job {
    /// True when an earlier run finished this scan: outputs appear whole, so one that is not older than its input is done.
    pub fn is_done(&self) -> bool {
        let changed = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
        match (changed(&self.output), changed(&self.input)) {
            (Some(output), Some(input)) => output >= input,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
