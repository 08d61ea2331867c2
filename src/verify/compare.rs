use super::tolerance::EXACT;
use super::{Error, Measure, Tolerance};
use crate::array::{HostArray, Shape};

/// A number or tensor held against its recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub name: String,
    pub shape: Shape,
    /// Largest absolute difference of two elements.
    pub max_abs: f64,
    /// The difference in the sense of the tolerance's measure. Not a number where a result is none.
    pub error: f64,
    pub tolerance: Tolerance,
}

impl Row {
    /// # Errors
    /// When the shapes differ.
    pub(super) fn tensor(
        name: impl Into<String>,
        got: &HostArray,
        recorded: &HostArray,
        tolerance: Tolerance,
    ) -> Result<Self, Error> {
        Row::change(name, got, recorded, None, tolerance)
    }

    /// As [`tensor`](Self::tensor), for what was `initial` before it was trained.
    pub(super) fn change(
        name: impl Into<String>,
        got: &HostArray,
        recorded: &HostArray,
        initial: Option<&HostArray>,
        tolerance: Tolerance,
    ) -> Result<Self, Error> {
        let name = name.into();
        if got.shape() != recorded.shape() {
            let (recorded, got) = (recorded.shape().clone(), got.shape().clone());
            return Err(Error::OtherShape { name, recorded, got });
        }
        let (values, expected) = (got.to_f64(), recorded.to_f64());
        let initial = initial.map(HostArray::to_f64);
        let (max_abs, error) = deviation(tolerance.measure, &values, &expected, initial.as_deref());
        Ok(Row { name, shape: recorded.shape().clone(), max_abs, error, tolerance })
    }

    pub(super) fn number(name: impl Into<String>, got: f64, recorded: f64, tolerance: Tolerance) -> Self {
        let (max_abs, error) = deviation(tolerance.measure, &[got], &[recorded], None);
        Row { name: name.into(), shape: Shape::scalar(crate::array::DType::F32), max_abs, error, tolerance }
    }

    /// Numbers of one kind, of which the one counts that differs most.
    pub(super) fn numbers(
        name: impl Into<String>,
        got: &[f64],
        recorded: &[f64],
        tolerance: Tolerance,
    ) -> Self {
        let (max_abs, error) = deviation(tolerance.measure, got, recorded, None);
        let shape = Shape::new(crate::array::DType::F64, [got.len()]);
        Row { name: name.into(), shape, max_abs, error, tolerance }
    }

    /// Cases without numbers, such as texts, of which so many differ.
    pub(super) fn count(name: impl Into<String>, total: usize, differing: usize) -> Self {
        let error = differing as f64;
        let shape = Shape::new(crate::array::DType::Pred, [total]);
        Row { name: name.into(), shape, max_abs: error.min(1.0), error, tolerance: EXACT }
    }

    pub fn passed(&self) -> bool {
        self.error <= self.tolerance.limit
    }

    /// How much of the tolerance is used up, for ranking; infinite where it is exceeded by something
    /// that is not a number.
    pub(super) fn badness(&self) -> f64 {
        match (self.error, self.tolerance.limit) {
            (error, _) if error.is_nan() => f64::INFINITY,
            (0.0, _) => 0.0,
            (error, limit) => error / limit,
        }
    }
}

/// The largest absolute difference, and the difference in the sense of a measure.
fn deviation(measure: Measure, got: &[f64], recorded: &[f64], initial: Option<&[f64]>) -> (f64, f64) {
    let pairs = || got.iter().zip(recorded);
    // Equal infinities differ by nothing.
    let difference = |(a, b): (&f64, &f64)| if a == b { 0.0 } else { (a - b).abs() };
    let max_abs = largest(pairs().map(difference));
    let error = match measure {
        Measure::Absolute | Measure::Bound => max_abs,
        Measure::OfMax => ratio(max_abs, largest(recorded.iter().map(|value| value.abs()))),
        Measure::OfValue => largest(pairs().map(|(a, b)| ratio(difference((a, b)), b.abs()))),
        Measure::OfChange => {
            let initial = initial.unwrap_or(recorded);
            let squares = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            ratio(squares(got, recorded).sqrt(), squares(recorded, initial).sqrt())
        }
        // A float image that was scaled to levels for this has rounding noise.
        Measure::Levels if max_abs > 1.001 || max_abs.is_nan() => f64::INFINITY,
        Measure::Levels => pairs().filter(|(a, b)| (*a - *b).abs() > 1e-3).count() as f64 / got.len() as f64,
        Measure::Exact => pairs().filter(|(a, b)| a != b).count() as f64,
    };
    (max_abs, error)
}

/// A difference relative to a size; no difference is none even of nothing.
fn ratio(difference: f64, size: f64) -> f64 {
    if difference == 0.0 { 0.0 } else { difference / size }
}

/// The largest of values, not a number where one is none (`f64::max` would skip it).
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |a: f64, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(measure: Measure, got: &[f64], recorded: &[f64]) -> f64 {
        deviation(measure, got, recorded, None).1
    }

    #[test]
    fn measures_mean_what_they_say() {
        let (got, recorded) = ([1.0, -2.5, 0.0], [1.0, -2.0, 0.0]);
        assert_eq!(error(Measure::Absolute, &got, &recorded), 0.5);
        assert_eq!(error(Measure::OfMax, &got, &recorded), 0.25);
        assert_eq!(error(Measure::OfValue, &[1.5, -2.0, 0.0], &recorded), 0.5);
        assert_eq!(error(Measure::Exact, &got, &recorded), 1.0);
        let initial = [1.0, -1.0, 0.0];
        assert_eq!(deviation(Measure::OfChange, &got, &recorded, Some(&initial)).1, 0.5);
    }

    #[test]
    fn levels_are_counted_and_never_two_apart() {
        let recorded = [7.0, 8.0, 9.0, 10.0];
        assert_eq!(error(Measure::Levels, &[7.0, 8.0001, 9.0, 11.0], &recorded), 0.25);
        assert_eq!(error(Measure::Levels, &[7.0, 8.0, 9.0, 12.0], &recorded), f64::INFINITY);
    }

    #[test]
    fn what_is_not_a_number_never_passes() {
        for measure in [
            Measure::OfMax,
            Measure::OfChange,
            Measure::OfValue,
            Measure::Absolute,
            Measure::Bound,
            Measure::Levels,
        ] {
            let error = deviation(measure, &[f64::NAN, 1.0], &[1.0, 1.0], Some(&[0.0, 0.0])).1;
            let tolerance = Tolerance { measure, limit: 1.0 };
            let shape = Shape::new(crate::array::DType::F32, [2]);
            let row = Row { name: "x".into(), shape, max_abs: error, error, tolerance };
            assert!(!row.passed() && row.badness() == f64::INFINITY, "{measure:?}");
        }
        assert_eq!(error(Measure::Exact, &[f64::NAN, 1.0], &[1.0, 1.0]), 1.0);
        // A zero that was recorded must be a zero.
        assert_eq!(error(Measure::OfValue, &[1e-30], &[0.0]), f64::INFINITY);
        assert_eq!(error(Measure::OfValue, &[0.0], &[0.0]), 0.0);
    }
}
