//! Reading a reference file: every tensor by name, type and shape.
//!
//! Whoever reads a tensor says which shape it has to have; what is missing or of another shape or type is an error that
//! names the file, the tensor and both shapes, and no check sees it. The file also remembers what was read:
//! [`ReferenceFile::complete`] refuses tensors that no check asked for, so that nothing is passed over because another
//! tensor, by which it would have been found, is missing or has another name.

use crate::device::Array;
use crate::geometry::MISSING;
use crate::graph::{Layout, ParamId, ParamKind, ParamSpec, Params};
use crate::weights::{Tensor, Tensors};
use crate::{Error, Result};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt::Display;
use std::path::Path;

/// The tensors of a reference file and which of them were read.
pub(super) struct ReferenceFile<'a> {
    tensors: &'a Tensors,
    path: &'a Path,
    read: RefCell<HashSet<String>>,
}

/// Names, places and descriptions of all tensors of a layout.
pub(super) fn each(layout: &Layout) -> impl Iterator<Item = (ParamId, &ParamSpec)> {
    let specs = layout.specs().iter();
    specs.filter_map(|spec| Some((layout.find(&spec.name)?, spec)))
}

impl<'a> ReferenceFile<'a> {
    /// The tensors of the file at `path`, none of them read yet.
    pub fn new(tensors: &'a Tensors, path: &'a Path) -> Self {
        ReferenceFile {
            tensors,
            path,
            read: RefCell::default(),
        }
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        self.path
    }

    /// An error about the tensor or key `name` of this file.
    pub fn fault(&self, name: &str, fault: impl Display) -> Error {
        Error::unusable(self.path, format!("{name}: {fault}"))
    }

    /// Errors when the file holds tensors that were not read.
    pub fn complete(&self) -> Result<()> {
        let read = self.read.borrow();
        let names = self.tensors.iter().map(|(name, _)| name);
        let unread: Vec<&str> = names.filter(|name| !read.contains(*name)).collect();
        match unread.as_slice() {
            [] => Ok(()),
            [first, rest @ ..] => Err(self.fault(
                first,
                format!(
                    "this and {} other tensors belong to no check of a file of this kind; \
                     a tensor beside them is missing or has another name",
                    rest.len()
                ),
            )),
        }
    }

    /// True when the name of a tensor begins with `prefix`.
    pub fn any(&self, prefix: &str) -> bool {
        self.tensors
            .iter()
            .any(|(name, _)| name.starts_with(prefix))
    }

    /// Counts everything under `prefix` as read.
    pub fn skip(&self, prefix: &str) {
        let names = self.tensors.iter().map(|(name, _)| name);
        let under = names.filter(|name| name.starts_with(prefix));
        self.read.borrow_mut().extend(under.map(String::from));
    }

    /// A metadata string as it is, if there is one.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.tensors.metadata.get(key).map(String::as_str)
    }

    /// A metadata string parsed as JSON.
    pub fn metadata(&self, key: &str) -> Result<Value> {
        let name = format!("metadata {key}");
        let text = self.text(key);
        let text = text.ok_or_else(|| self.fault(&name, "is missing from the file"))?;
        serde_json::from_str(text).map_err(|e| self.fault(&name, format!("is not JSON: {e}")))
    }

    /// A metadata number.
    pub fn number(&self, key: &str) -> Result<f64> {
        let value = self.metadata(key)?.as_f64();
        value.ok_or_else(|| self.fault(&format!("metadata {key}"), "is not a number"))
    }

    /// A metadata number that counts something: from 1 to 65536.
    pub fn whole(&self, key: &str) -> Result<usize> {
        let value = self.metadata(key)?.as_u64();
        let value = value.filter(|v| (1..=1 << 16).contains(v));
        let count = value.map(|v| v as usize);
        let fault = "is not a whole number from 1 to 65536";
        count.ok_or_else(|| self.fault(&format!("metadata {key}"), fault))
    }

    fn held(&self, name: &str) -> Result<&'a Tensor> {
        let found = self.tensors.get(name);
        found.ok_or_else(|| self.fault(name, "is missing; the file holds no tensor of this name"))
    }

    fn shaped(&self, name: &str, dims: &[usize]) -> Result<&'a Tensor> {
        let tensor = self.held(name)?;
        self.read.borrow_mut().insert(name.to_string());
        if tensor.dims() == dims {
            return Ok(tensor);
        }
        let held = tensor.dims();
        Err(self.fault(name, format!("the file holds {held:?}, {dims:?} is needed")))
    }

    /// Sizes of a tensor that may have any shape with elements. The tensor counts as read with its values only.
    pub fn shape(&self, name: &str) -> Result<&'a [usize]> {
        let dims = self.held(name)?.dims();
        if dims.contains(&0) {
            return Err(self.fault(name, format!("the file holds {dims:?}, which is empty")));
        }
        Ok(dims)
    }

    /// Sizes of a tensor of `N` dimensions that says how large others are.
    pub fn dims<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let held = self.shape(name)?;
        held.try_into().map_err(|_| {
            self.fault(
                name,
                format!("the file holds {held:?}, {N} dimensions are needed"),
            )
        })
    }

    /// Floating-point values of a tensor of shape `dims`, rounded to single precision; all are finite.
    pub fn floats(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>> {
        let values = self.doubles(name, dims)?;
        Ok(values.into_iter().map(|v| v as f32).collect())
    }

    /// Floating-point values of a tensor of shape `dims`; all are finite.
    pub fn doubles(&self, name: &str, dims: &[usize]) -> Result<Vec<f64>> {
        let tensor = self.shaped(name, dims)?;
        if !tensor.dtype().is_float() {
            let held = tensor.dtype().name();
            let fault = format!("the file holds {held}, floating-point numbers are needed");
            return Err(self.fault(name, fault));
        }
        let values = tensor.to_f64();
        match values.iter().position(|v| !v.is_finite()) {
            None => Ok(values),
            Some(at) => Err(self.fault(name, format!("value {at} is {}", values[at]))),
        }
    }

    /// The value of a tensor of shape \[1\].
    pub fn single(&self, name: &str) -> Result<f64> {
        Ok(self.doubles(name, &[1])?[0])
    }

    /// Values of an integer tensor of shape `dims`.
    pub fn integers(&self, name: &str, dims: &[usize]) -> Result<Vec<i64>> {
        let tensor = self.shaped(name, dims)?;
        tensor.to_i64().ok_or_else(|| {
            let held = tensor.dtype().name();
            self.fault(name, format!("the file holds {held}, integers are needed"))
        })
    }

    /// Values of an integer tensor of one dimension and any length: a list whose length is itself compared.
    pub fn list(&self, name: &str) -> Result<Vec<i64>> {
        self.integers(name, &self.dims::<1>(name)?)
    }

    /// Values of a matrix of any size: one whose size is itself compared.
    pub fn matrix(&self, name: &str) -> Result<Vec<f64>> {
        self.doubles(name, &self.dims::<2>(name)?)
    }

    /// Positions, [N, 3] with any N.
    pub fn points(&self, name: &str) -> Result<Vec<[f32; 3]>> {
        let [rows, _] = self.dims(name)?;
        let values = self.floats(name, &[rows, 3])?;
        let (points, _) = values.as_chunks();
        Ok(points.to_vec())
    }

    /// Offsets of a batch of `rows` rows, with a leading 0, from the file's list of ends.
    pub fn ends(&self, name: &str, rows: usize) -> Result<Vec<usize>> {
        let ends = self.list(name)?;
        let strange = || {
            let fault = format!("{ends:?} are not the ends of elements that make up {rows} rows");
            self.fault(name, fault)
        };
        let mut offsets = vec![0usize];
        for end in &ends {
            let last = offsets[offsets.len() - 1];
            let end = usize::try_from(*end).ok().filter(|end| *end >= last);
            offsets.push(end.ok_or_else(strange)?);
        }
        if offsets.last() != Some(&rows) {
            return Err(strange());
        }
        Ok(offsets)
    }

    /// Row numbers below `rows`; −1, for none, becomes [`MISSING`].
    pub fn rows(&self, name: &str, dims: &[usize], rows: usize) -> Result<Vec<u32>> {
        let row = |row: i64| match u32::try_from(row) {
            Ok(found) if (found as usize) < rows => Ok(found),
            _ if row == -1 => Ok(MISSING),
            _ => Err(self.fault(name, format!("{row} is none of {rows} rows"))),
        };
        self.integers(name, dims)?.into_iter().map(row).collect()
    }

    /// One label for each of `rows` rows: a class below `classes` or `ignored`.
    pub fn labels(
        &self,
        name: &str,
        rows: usize,
        classes: usize,
        ignored: i32,
    ) -> Result<Array<i32>> {
        let label = |label: i64| match i32::try_from(label) {
            Ok(found) if found == ignored => Ok(found),
            Ok(found) if found >= 0 && (found as usize) < classes => Ok(found),
            _ => Err(self.fault(name, format!("{label} is none of {classes} classes"))),
        };
        let labels = self.integers(name, &[rows])?.into_iter().map(label);
        Ok(Array::from(labels.collect::<Result<Vec<i32>>>()?))
    }

    /// The label that counts for nothing, from a metadata number.
    pub fn ignored(&self, key: &str) -> Result<i32> {
        let label = self.metadata(key)?.as_i64();
        let label = label.and_then(|l| i32::try_from(l).ok());
        label.ok_or_else(|| self.fault(&format!("metadata {key}"), "is no label"))
    }

    /// Fills a network or layer with the values under `prefix`; all of them have to be there.
    pub fn load(&self, params: &mut Params, prefix: &str) -> Result<()> {
        self.load_named(params, |name| format!("{prefix}{name}"))
    }

    /// As [`ReferenceFile::load`], where `place` says what the file calls a parameter.
    pub fn load_named(&self, params: &mut Params, place: impl Fn(&str) -> String) -> Result<()> {
        let layout = params.layout().clone();
        for (id, spec) in each(&layout) {
            let name = place(&spec.name);
            match spec.kind {
                ParamKind::Counter => params.set_counter(id, self.integers(&name, &[])?[0]),
                _ => params.set(id, &self.floats(&name, &spec.dims)?)?,
            }
        }
        Ok(())
    }

    /// Values of the float tensors under `prefix` that belong to the parameters whose description `pick` accepts; all of
    /// them have to be there.
    pub fn of_parameters(
        &self,
        prefix: &str,
        layout: &Layout,
        pick: impl Fn(&ParamSpec) -> bool,
    ) -> Result<Vec<Wanted>> {
        let picked = each(layout).filter(|(_, spec)| pick(spec));
        let wanted = picked.map(|(id, spec)| {
            let name = format!("{prefix}{}", spec.name);
            let values = match spec.kind {
                ParamKind::Counter => {
                    let counts = self.integers(&name, &[])?;
                    counts.into_iter().map(|c| c as f64).collect()
                }
                _ => self.doubles(&name, &spec.dims)?,
            };
            let param = spec.name.clone();
            Ok(Wanted {
                id,
                param,
                name,
                values,
            })
        });
        wanted.collect()
    }
}

/// What the file holds for one parameter of a network: a gradient, a value after a step, a statistic.
pub(super) struct Wanted {
    pub id: ParamId,
    /// The network's name.
    pub param: String,
    /// The file's name.
    pub name: String,
    /// In the parameter's shape; a counter has one.
    pub values: Vec<f64>,
}

/// Accepts trained parameters.
pub(super) fn trained(spec: &ParamSpec) -> bool {
    spec.kind == ParamKind::Weight
}

/// Accepts what a forward pass in training changes: running statistics and counters.
pub(super) fn buffer(spec: &ParamSpec) -> bool {
    matches!(spec.kind, ParamKind::Running | ParamKind::Counter)
}
