//! Labelled scans in files: a list of files, folders and patterns, every format that [`crate::io`] reads.
//!
//! A folder stands for all scans directly in it (by extension, sorted by name); `*` and `?` in the last part of a path
//! match names. Clouds are read once, in parallel, reduced to what the features need, and stay in memory.

use super::labels::LabelMap;
use super::{Dataset, Duplicates, LabelledCloud};
use crate::cloud::features::Feature;
use crate::{Error, Result, io};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How scans of a folder are read.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// The network's input.
    pub features: &'a [Feature],
    /// From codes to classes.
    pub labels: &'a LabelMap,
    /// Attribute that holds the codes; a usual name when absent.
    pub attribute: Option<&'a str>,
    /// Points in one place.
    pub duplicates: Duplicates,
}

/// Scans in memory.
#[derive(Debug)]
pub struct Folder {
    clouds: Vec<(String, Arc<LabelledCloud>)>,
}

impl Folder {
    /// Reads all scans that `paths` name, relative ones from `base`.
    ///
    /// # Errors
    /// A path or pattern that names nothing, a scan that cannot be read or holds no points, no labels, unknown labels, or
    /// not the features.
    pub fn read(paths: &[String], base: &Path, how: Reading<'_>) -> Result<Folder> {
        let mut files = Vec::new();
        for path in paths {
            files.extend(expand(&base.join(path))?);
        }
        let clouds = files
            .par_iter()
            .map(|file| {
                let name = file.file_name().map_or_else(
                    || file.display().to_string(),
                    |n| n.to_string_lossy().into_owned(),
                );
                Ok((name, Arc::new(read(file, how)?)))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Folder { clouds })
    }
}

impl Dataset for Folder {
    fn len(&self) -> usize {
        self.clouds.len()
    }

    fn name(&self, number: usize) -> &str {
        &self.clouds[number].0
    }

    fn cloud(&self, number: usize) -> Result<Arc<LabelledCloud>> {
        Ok(self.clouds[number].1.clone())
    }
}

fn read(file: &Path, how: Reading<'_>) -> Result<LabelledCloud> {
    let cloud = io::read(file)?.cloud;
    let codes = match how.attribute {
        Some(name) => cloud.labels_of(name),
        None => cloud.labels(),
    };
    let Some(codes) = codes else {
        let wanted = how.attribute.unwrap_or("label or classification");
        let have: Vec<&str> = cloud.attributes.iter().map(|a| a.name.as_str()).collect();
        return Err(Error::unusable(
            file,
            format!(
                "has no integer attribute {wanted} with class codes, only: {}; name it with `data.labels`",
                have.join(", ")
            ),
        ));
    };
    let target = how.labels.classes(&codes.code, file)?;
    let labelled = LabelledCloud::new(&cloud, &target, how.features, how.duplicates)
        .map_err(|e| Error::unusable(file, e.to_string()))?;
    if labelled.sample.is_empty() {
        return Err(Error::unusable(
            file,
            "has no point with usable coordinates",
        ));
    }
    Ok(labelled)
}

/// The files that a path, folder or pattern names, sorted.
fn expand(path: &Path) -> Result<Vec<PathBuf>> {
    if !io::names_many(path) {
        // A missing file is reported by name here, before the others are read.
        std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    }
    io::expand(path, &io::is_scan_name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::{Column, PointCloud};
    use crate::io::{Scan, write_unlabelled};
    use crate::weights::ClassInfo;

    fn save(path: &Path, codes: &[u8]) {
        let mut cloud = PointCloud {
            coord: (0..codes.len()).map(|i| [i as f64, 0.0, 0.0]).collect(),
            ..PointCloud::default()
        };
        cloud
            .set_attribute("label", Column::U8(codes.to_vec()))
            .unwrap();
        let scan = Scan {
            cloud,
            ..Scan::default()
        };
        write_unlabelled(path, &scan).unwrap();
    }

    fn labels() -> LabelMap {
        let class = |name: &str| ClassInfo {
            name: name.into(),
            code: None,
            aliases: Vec::new(),
        };
        LabelMap::new(&[class("a"), class("b")], &[9]).unwrap()
    }

    fn open(paths: &[&str], base: &Path) -> Result<Folder> {
        let paths: Vec<String> = paths.iter().map(|p| p.to_string()).collect();
        let how = Reading {
            features: &[],
            labels: &labels(),
            attribute: None,
            duplicates: Duplicates::Keep,
        };
        Folder::read(&paths, base, how)
    }

    #[test]
    fn files_folders_and_patterns_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        for name in ["a1.npy", "a2.npy", "b1.npy"] {
            save(&base.join(name), &[0, 1, 9]);
        }
        std::fs::write(base.join("notes.md"), "no scan").unwrap();
        let names = |paths: &[&str]| -> Vec<String> {
            let set = open(paths, base).unwrap();
            (0..set.len()).map(|i| set.name(i).to_string()).collect()
        };
        assert_eq!(names(&["."]), ["a1.npy", "a2.npy", "b1.npy"]);
        assert_eq!(names(&["a*.npy"]), ["a1.npy", "a2.npy"]);
        assert_eq!(names(&["b1.npy", "a?.npy"]), ["b1.npy", "a1.npy", "a2.npy"]);
        let cloud = open(&["a1.npy"], base).unwrap().cloud(0).unwrap();
        assert_eq!(cloud.target, [0, 1, -1]);
    }

    #[test]
    fn faults_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        save(&base.join("odd.npy"), &[0, 7]);
        for (path, part) in [
            ("odd.npy", "7 (1 points)"),
            ("none.npy", "none.npy"),
            ("x*.npy", "names no scan"),
        ] {
            let error = open(&[path], base).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
