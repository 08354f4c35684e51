//! Which scans are labelled, and where the results go.

use crate::io;
use crate::{Error, Result};
use std::collections::BTreeSet;
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
}

/// Whether a folder's file is worth a try.
fn is_scan(path: &Path) -> bool {
    io::is_scan_name(path) || has_extension(path, "mcap")
}

pub fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension()
        .is_some_and(|e| e.eq_ignore_ascii_case(wanted))
}

impl Jobs {
    /// Finds the scans; `to` is the extension of the outputs in place of the inputs' own.
    ///
    /// # Errors
    /// Folders that cannot be read or hold no scan, and outputs that would fall on each other or on an input.
    pub fn new(inputs: &[PathBuf], output: Option<&Path>, to: Option<&str>) -> Result<Jobs> {
        let mut files = Vec::new();
        for input in inputs {
            let found = io::expand(input, &is_scan)?;
            let is_many = io::names_many(input);
            // Results of an earlier run lie beside their inputs and are no inputs. Where results go elsewhere, a name alone
            // makes none: its input has to be there.
            let stems: BTreeSet<PathBuf> = found.iter().map(|f| f.with_extension("")).collect();
            let is_result = |f: &PathBuf| {
                let of = input_of(f);
                is_many && of.is_some_and(|of| output.is_none() || stems.contains(&of))
            };
            files.extend(found.iter().filter(|f| !is_result(f)).cloned());
        }
        let folder = output.filter(|o| o.is_dir());
        let many = files.len() > 1 || folder.is_some() || inputs.iter().any(|i| io::names_many(i));
        if let (false, Some(output), [input]) = (many, output, files.as_slice()) {
            if to.is_some() {
                let fault = "the name of the output decides its format; leave one of the two out";
                return Err(Error::argument("to", fault));
            }
            let job = Job {
                input: input.clone(),
                output: output.to_path_buf(),
            };
            return Ok(Jobs {
                list: vec![job],
                many,
            });
        }
        if let Some(output) = output.filter(|o| o.exists() && !o.is_dir()) {
            let fault = "is a file; several inputs need a folder as output";
            return Err(Error::unusable(output, fault));
        }
        let list = place(files, output, to)?;
        if let Some(output) = output {
            std::fs::create_dir_all(output).map_err(|e| Error::io(output, e))?;
        }
        Ok(Jobs { list, many })
    }
}

/// The scan, without extension, of which a file would be the result by its name.
fn input_of(path: &Path) -> Option<PathBuf> {
    let stem = path.file_stem()?.to_str()?;
    Some(path.with_file_name(stem.strip_suffix(SUFFIX)?))
}

/// Gives every input its output.
fn place(files: Vec<PathBuf>, folder: Option<&Path>, to: Option<&str>) -> Result<Vec<Job>> {
    let mut taken = BTreeSet::new();
    let mut list = Vec::new();
    for input in files {
        let stem = input.file_stem().unwrap_or_default().to_string_lossy();
        let own = input.extension().unwrap_or_default().to_string_lossy();
        let extension = to.map_or(&*own, |to| to.trim_start_matches('.'));
        let suffix = if folder.is_none() { SUFFIX } else { "" };
        let name = match extension {
            "" => format!("{stem}{suffix}"),
            extension => format!("{stem}{suffix}.{extension}"),
        };
        let output = match folder {
            Some(folder) => folder.join(name),
            None => input.with_file_name(name),
        };
        if !taken.insert(output.clone()) {
            let fault = "another input has the same file name, and both outputs go into one folder";
            return Err(Error::unusable(input, fault));
        }
        let same = |a: &Path, b: &Path| {
            let real = |p: &Path| std::fs::canonicalize(p).ok();
            real(a).is_some_and(|a| Some(a) == real(b))
        };
        if same(&input, &output) {
            let fault =
                "would be written over itself; choose another folder, or leave --output out";
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
mod tests {
    use super::*;

    #[test]
    fn outputs_lie_beside_their_inputs_or_in_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        for name in [
            "a.las",
            "b.mcap",
            "a_labelled.las",
            "truth_labelled.las",
            "n.md",
        ] {
            std::fs::write(file(name), "x").unwrap();
        }
        let names = |jobs: &Jobs| -> Vec<String> {
            let name = |p: &Path| p.strip_prefix(folder.path()).unwrap().display().to_string();
            (jobs.list.iter())
                .map(|j| format!("{} {}", name(&j.input), name(&j.output)))
                .collect()
        };
        let all = [folder.path().to_path_buf()];
        let beside = Jobs::new(&all, None, None).unwrap();
        assert!(beside.many);
        assert_eq!(
            names(&beside),
            ["a.las a_labelled.las", "b.mcap b_labelled.mcap"]
        );
        let out = file("out");
        let inside = Jobs::new(&[file("*.las")], Some(&out), Some(".ply")).unwrap();
        let want = [
            "a.las out/a.ply",
            "truth_labelled.las out/truth_labelled.ply",
        ];
        assert_eq!(names(&inside), want);
        assert!(out.is_dir());
        let one = Jobs::new(&[file("a.las")], Some(&file("c.las")), None).unwrap();
        assert_eq!((names(&one), one.many), (vec!["a.las c.las".into()], false));
        let fault = Jobs::new(&all, Some(folder.path()), None).unwrap_err();
        assert!(fault.to_string().contains("written over itself"), "{fault}");
        let two = [file("a.las"), file("out/a.las")];
        let fault = Jobs::new(&two, Some(&out), None).unwrap_err();
        assert!(fault.to_string().contains("same file name"), "{fault}");
        let fault = Jobs::new(&all, Some(&file("n.md")), None).unwrap_err();
        assert!(fault.to_string().contains("need a folder"), "{fault}");
    }

    #[test]
    fn finished_scans_are_those_not_older_than_their_inputs() {
        let folder = tempfile::tempdir().unwrap();
        let job = Job {
            input: folder.path().join("a"),
            output: folder.path().join("b"),
        };
        std::fs::write(&job.input, "x").unwrap();
        assert!(!job.is_done());
        std::fs::write(&job.output, "x").unwrap();
        assert!(job.is_done());
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
        let input = std::fs::File::options()
            .append(true)
            .open(&job.input)
            .unwrap();
        input.set_modified(later).unwrap();
        assert!(!job.is_done());
    }
}
