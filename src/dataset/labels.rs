//! From the class codes of scans to class numbers: a map that knows every code, or says which ones it does not.

use crate::cloud::batch::IGNORED;
use crate::weights::ClassInfo;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;

/// Which code means which class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelMap {
    class_of: BTreeMap<i64, i32>,
}

impl LabelMap {
    /// Every class has its code (its number when none is given) and its aliases; `ignore` lists codes that mean nothing.
    ///
    /// # Errors
    /// A code that is listed twice.
    pub fn new(classes: &[ClassInfo], ignore: &[i64]) -> Result<LabelMap> {
        let mut class_of = BTreeMap::new();
        let mut add = |key: &str, code: i64, class: i32| match class_of.insert(code, class) {
            Some(before) if before != class => Err(Error::config(
                key,
                format!("code {code} is listed for two classes, or for a class and as ignored"),
            )),
            _ => Ok(()),
        };
        for (number, class) in classes.iter().enumerate() {
            let own = class.code.unwrap_or(number as u32);
            for code in std::iter::once(&own).chain(&class.aliases) {
                let key = format!("classes.{}", class.name);
                add(&key, i64::from(*code), number as i32)?;
            }
        }
        for code in ignore {
            add("data.ignore", *code, IGNORED)?;
        }
        Ok(LabelMap { class_of })
    }

    /// The class of every code, [`IGNORED`] where it means nothing.
    ///
    /// # Errors
    /// Codes that are neither of a class nor ignored, all of them with their counts.
    pub fn classes(&self, codes: &[i64], path: &Path) -> Result<Vec<i32>> {
        let mut unknown = BTreeMap::new();
        let mut classes = Vec::with_capacity(codes.len());
        for code in codes {
            classes.push(self.class_of.get(code).copied().unwrap_or_else(|| {
                *unknown.entry(*code).or_insert(0u64) += 1;
                IGNORED
            }));
        }
        if unknown.is_empty() {
            return Ok(classes);
        }
        const LISTED: usize = 20;
        let mut list: Vec<String> = unknown
            .iter()
            .take(LISTED)
            .map(|(code, count)| format!("{code} ({count} points)"))
            .collect();
        if unknown.len() > LISTED {
            list.push(format!("and {} more", unknown.len() - LISTED));
        }
        Err(Error::unusable(
            path,
            format!(
                "holds labels that the configuration does not know: {}; add each to `aliases` of a class or to \
                 `data.ignore`",
                list.join(", ")
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<ClassInfo> {
        let class = |name: &str, code, aliases: &[u32]| ClassInfo {
            name: name.into(),
            code,
            aliases: aliases.to_vec(),
        };
        vec![
            class("ground", Some(2), &[]),
            class("vegetation", Some(5), &[3, 4]),
        ]
    }

    #[test]
    fn codes_aliases_and_ignored_codes_are_mapped() {
        let map = LabelMap::new(&classes(), &[1, -1]).unwrap();
        let found = map.classes(&[2, 3, 4, 5, 1, -1], Path::new("x")).unwrap();
        assert_eq!(found, [0, 1, 1, 1, -1, -1]);
    }

    #[test]
    fn unknown_codes_are_listed_with_their_counts() {
        let map = LabelMap::new(&classes(), &[1]).unwrap();
        let error = map
            .classes(&[2, 64, 6, 64], Path::new("tile.laz"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("tile.laz") && error.contains("6 (1 points), 64 (2 points)"),
            "{error}"
        );
    }

    #[test]
    fn a_code_for_two_classes_is_rejected() {
        let error = LabelMap::new(&classes(), &[4]).unwrap_err().to_string();
        assert!(error.contains("code 4"), "{error}");
        let mut twice = classes();
        twice[0].aliases.push(5);
        assert!(LabelMap::new(&twice, &[]).is_err());
    }
}
