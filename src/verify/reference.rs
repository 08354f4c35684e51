//! Comparing computed values with reference values.

use serde::Serialize;

/// One compared tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// Name of the tensor in the file.
    pub name: String,
    /// How the error is measured.
    pub measure: &'static str,
    /// The error; infinite when something is missing, has another length or is not finite.
    pub error: f64,
    /// The largest error allowed.
    pub limit: f64,
}

impl Finding {
    /// True when the error is within its limit.
    pub fn passed(&self) -> bool {
        self.error <= self.limit
    }
}

/// Everything that was compared.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Kinds of checks that the file asked for.
    pub kinds: Vec<String>,
    /// One entry per tensor and measure.
    pub findings: Vec<Finding>,
}

impl Report {
    /// True when every error is within its limit.
    pub fn passed(&self) -> bool {
        self.findings.iter().all(Finding::passed)
    }

    fn add(&mut self, name: impl Into<String>, measure: &'static str, error: f64, limit: f64) {
        self.findings.push(Finding {
            name: name.into(),
            measure,
            error: if error.is_nan() { f64::INFINITY } else { error },
            limit,
        });
    }

    /// ‖got − want‖ / ‖want‖ over the tensor.
    pub fn relative(&mut self, name: impl Into<String>, got: &[f32], want: &[f64], limit: f64) {
        self.add(name, "relative L2", relative_l2(got, want), limit);
    }

    /// Largest difference over the largest reference value.
    pub fn largest(&mut self, name: impl Into<String>, got: &[f32], want: &[f64], limit: f64) {
        let scale = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let error = largest_difference(got, want) / scale.max(f64::MIN_POSITIVE);
        self.add(name, "largest difference / largest value", error, limit);
    }

    /// As [`Report::relative`] for distances to neighbours, each by itself: whether the same neighbours are missing, which
    /// have a distance of 1e5, and the largest |got − want| / want of the others.
    pub fn distances(&mut self, name: impl Into<String>, got: &[f32], want: &[f64], limit: f64) {
        let name = name.into();
        let gone = |distance: f64| distance == 1e5;
        let got: Vec<f64> = got.iter().map(|g| f64::from(*g)).collect();
        let missing = |list: &[f64]| list.iter().map(|d| gone(*d)).collect::<Vec<_>>();
        self.equal(format!("{name} (missing)"), &missing(&got), &missing(want));
        let present = got.iter().zip(want).filter(|(_, w)| !gone(**w));
        let errors = present.map(|(g, w)| match g == w {
            true => 0.0,
            false => (g - w).abs() / w.abs(),
        });
        self.add(
            name,
            "largest relative, of those there",
            worst(errors),
            limit,
        );
    }

    /// Largest absolute value, for what should be zero, against `scale`.
    pub fn zero(&mut self, name: impl Into<String>, got: &[f32], scale: f64, limit: f64) {
        let largest = worst(got.iter().map(|x| f64::from(x.abs())));
        self.add(
            name,
            "largest value / largest of the file, should be 0",
            largest / scale,
            limit,
        );
    }

    /// |got − want| of one number.
    pub fn absolute(&mut self, name: impl Into<String>, got: f64, want: f64, limit: f64) {
        self.add(name, "absolute", (got - want).abs(), limit);
    }

    /// |got − want| / |want| of one number.
    pub fn ratio(&mut self, name: impl Into<String>, got: f64, want: f64, limit: f64) {
        self.add(
            name,
            "relative",
            (got - want).abs() / want.abs().max(1e-300),
            limit,
        );
    }

    /// Largest |got − want| / |want|, which both hold in double precision; infinite when lengths differ.
    pub fn ratios(&mut self, name: impl Into<String>, got: &[f64], want: &[f64], limit: f64) {
        let errors = got.iter().zip(want).map(|(g, w)| (g - w).abs() / w.abs());
        let worst = match got.len() == want.len() {
            true => worst(errors),
            false => f64::INFINITY,
        };
        self.add(name, "largest relative", worst, limit);
    }

    /// A number that has to stay below its limit.
    pub fn bounded(
        &mut self,
        name: impl Into<String>,
        measure: &'static str,
        got: f64,
        limit: f64,
    ) {
        self.add(name, measure, got, limit);
    }

    /// Number of places where two lists differ.
    pub fn equal<T: PartialEq>(&mut self, name: impl Into<String>, got: &[T], want: &[T]) {
        let error = match got.len() == want.len() {
            true => got.iter().zip(want).filter(|(g, w)| g != w).count() as f64,
            false => f64::INFINITY,
        };
        self.add(name, "places that differ", error, 0.0);
    }
}

/// ‖got − want‖ / ‖want‖, infinite when lengths differ or something is not finite.
pub fn relative_l2(got: &[f32], want: &[f64]) -> f64 {
    if got.len() != want.len() || got.iter().any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let square = |x: f64| x * x;
    let difference: f64 = got
        .iter()
        .zip(want)
        .map(|(g, w)| square(f64::from(*g) - w))
        .sum();
    let norm: f64 = want.iter().map(|w| square(*w)).sum();
    match norm {
        0.0 => difference.sqrt(),
        _ => (difference / norm).sqrt(),
    }
}

/// Largest difference, infinite where lengths differ or something is no number.
pub(super) fn largest_difference(got: &[f32], want: &[f64]) -> f64 {
    if got.len() != want.len() {
        return f64::INFINITY;
    }
    worst(got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()))
}

/// The largest error; infinite when one is no number.
pub(super) fn worst(errors: impl Iterator<Item = f64>) -> f64 {
    errors.fold(
        0.0,
        |m, e| if e.is_nan() { f64::INFINITY } else { m.max(e) },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_or_missing_fails() {
        let mut report = Report::default();
        report.relative("nan", &[f32::NAN], &[1.0], 1e9);
        report.relative("short", &[], &[1.0], 1e9);
        report.largest("nan", &[f32::NAN], &[1.0], 1e9);
        report.absolute("nan", f64::NAN, 1.0, 1e9);
        report.zero("nan", &[0.0, f32::NAN, 0.0], 1.0, 1e9);
        report.ratios("nan", &[f64::NAN], &[1.0], 1e9);
        report.equal("short", &[1], &[1, 2]);
        assert!(report.findings.iter().all(|f| !f.passed()));
        report.findings.clear();
        report.relative("same", &[1.0, 2.0], &[1.0, 2.0], 0.0);
        report.equal("same", &[1, 2], &[1, 2]);
        assert!(report.passed());
    }

    #[test]
    fn distances_are_compared_one_by_one() {
        let passes = |got: &[f32], want: &[f64]| {
            let mut report = Report::default();
            report.distances("dist", got, want, 1e-6);
            report.passed()
        };
        assert!(passes(&[0.0, 0.5, 1e5], &[0.0, 0.5, 1e5]));
        // relative to the length of the whole list these are 1e-7
        assert!(!passes(&[0.0, 0.51, 1e5], &[0.0, 0.5, 1e5]));
        assert!(!passes(&[0.01, 0.5, 1e5], &[0.0, 0.5, 1e5]));
        assert!(!passes(&[0.0, 1e5, 1e5], &[0.0, 0.5, 1e5]));
        assert!(!passes(&[0.0, 0.5, 0.7], &[0.0, 0.5, 1e5]));
        assert!(!passes(&[0.0, 0.5], &[0.0, 0.5, 1e5]));
        assert!(!passes(&[0.0, f32::NAN, 1e5], &[0.0, 0.5, 1e5]));
    }
}
