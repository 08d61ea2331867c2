use super::super::{Mean, Metrics};
use super::{Error, Judged, Truth, Vqa};

const QUESTION_TYPES: [&str; 5] = ["comp", "count", "presence", "rural_urban", "area"];
/// The types of `acc_avg_nonum`, where both occur. The reference also averages over these and `rural_urban`, for its low
/// resolution set, but under the same name, so that this average replaces it.
const NOT_NUMBERS: [&str; 2] = ["comp", "presence"];

/// As [`Vqa`], and by type of question (`rsvqa.py`): remote sensing images.
#[derive(Debug, Clone, Default)]
pub struct RsVqa {
    all: Vqa,
    by_type: [Mean; QUESTION_TYPES.len()],
}

impl RsVqa {
    /// `to_lower`: whether texts are compared in lower case.
    pub fn new(to_lower: bool) -> Self {
        RsVqa { all: Vqa::new(to_lower), ..RsVqa::default() }
    }

    /// # Errors
    /// When the answer can be judged but its type of question is unknown.
    pub fn add(&mut self, answer: &str, truth: Truth<'_>, question_type: &str) -> Result<Judged, Error> {
        let Truth::Several(references) = truth else { return Ok(self.all.add(answer, truth)) };
        if references.is_empty() {
            return Ok(self.all.add(answer, truth));
        }
        let place = QUESTION_TYPES.iter().position(|&known| known == question_type);
        let place = place.ok_or_else(|| Error::UnknownType {
            what: "question_type",
            got: question_type.to_owned(),
            known: &QUESTION_TYPES,
        })?;
        let (judged, any) = self.all.judge(answer, truth);
        self.by_type[place].add(any);
        Ok(judged)
    }

    /// Those of [`Vqa`], `acc_` of every type of question, `acc_avg` over types, and `acc_avg_nonum` over those that do
    /// not ask for a number.
    ///
    /// # Errors
    /// When answers were judged, but all by a single right answer, which the reference counts under no type.
    pub fn metrics(&self) -> Result<Metrics, Error> {
        let mut metrics = self.all.means();
        if !metrics.is_empty() {
            let means = QUESTION_TYPES.iter().zip(self.by_type);
            let types: Vec<(&str, f64)> =
                means.filter_map(|(name, mean)| Some((*name, mean.get()?))).collect();
            metrics.extend(types.iter().map(|(name, accuracy)| (format!("acc_{name}"), *accuracy)));
            let average = |types: &[f64]| types.iter().sum::<f64>() / types.len() as f64;
            let all: Vec<f64> = types.iter().map(|(_, accuracy)| *accuracy).collect();
            if all.is_empty() {
                return Err(Error::NoTypes);
            }
            metrics.push(("acc_avg".into(), average(&all)));
            let of_texts = types.iter().filter(|(name, _)| NOT_NUMBERS.contains(name));
            let of_texts: Vec<f64> = of_texts.map(|(_, accuracy)| *accuracy).collect();
            if of_texts.len() == NOT_NUMBERS.len() {
                metrics.push(("acc_avg_nonum".into(), average(&of_texts)));
            }
        }
        metrics.push(("num".into(), self.all.num() as f64));
        Ok(metrics)
    }
}
