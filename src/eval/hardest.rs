//! Which predictions keep their pictures: the first ones, and the worst so far.

use super::Prediction;

/// Collects the predictions of a run. Pictures take memory, so that only as many are kept as are shown.
pub(super) struct Collector {
    predictions: Vec<Prediction>,
    limit: usize,
    /// Ranks and numbers of the worst predictions, the worst first.
    worst: Vec<(f64, usize)>,
}

impl Collector {
    /// Keeps the pictures of the first `limit` predictions and of the `limit` worst.
    pub fn new(limit: usize) -> Self {
        Collector { predictions: Vec::new(), limit, worst: Vec::new() }
    }

    /// Adds a prediction. What takes time or memory to show, `show` adds only where it is kept for now.
    pub fn add(&mut self, mut prediction: Prediction, show: impl FnOnce(&mut Prediction)) {
        let number = self.predictions.len();
        let rank = prediction.rank();
        // Of equals, the first stays.
        let place = rank.map(|rank| self.worst.partition_point(|(other, _)| *other <= rank));
        let place = place.filter(|&place| place < self.limit);
        if number < self.limit || place.is_some() {
            show(&mut prediction);
        } else {
            (prediction.picture, prediction.masks) = (None, None);
        }
        self.predictions.push(prediction);
        if let (Some(place), Some(rank)) = (place, rank) {
            self.worst.insert(place, (rank, number));
            if self.worst.len() > self.limit
                && let Some((_, dropped)) = self.worst.pop()
                && dropped >= self.limit
            {
                (self.predictions[dropped].picture, self.predictions[dropped].masks) = (None, None);
            }
        }
    }

    /// All predictions, and the numbers of the worst, the worst first.
    pub fn finish(self) -> (Vec<Prediction>, Vec<usize>) {
        (self.predictions, self.worst.into_iter().map(|(_, number)| number).collect())
    }
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;

    #[test]
    fn the_first_and_the_worst_keep_their_pictures() {
        let mut collector = Collector::new(2);
        for (row, score) in [0.9, 0.5, 0.1, 0.7, f64::NAN, 0.1, 0.0].into_iter().enumerate() {
            let prediction = Prediction { row, score: Some(score), ..Prediction::default() };
            collector.add(prediction, |prediction| prediction.picture = Some(RgbImage::new(1, 1)));
        }
        let (predictions, worst) = collector.finish();
        assert_eq!(worst, [6, 2]);
        let shown: Vec<usize> = predictions.iter().filter(|p| p.picture.is_some()).map(|p| p.row).collect();
        assert_eq!(shown, [0, 1, 2, 6]);
    }

    #[test]
    fn losses_rank_from_the_largest_and_nothing_is_kept_without_room() {
        let mut collector = Collector::new(1);
        for (row, loss) in [0.5, 2.0, 1.0].into_iter().enumerate() {
            collector.add(Prediction { row, loss: Some(loss), ..Prediction::default() }, |_| ());
        }
        assert_eq!(collector.finish().1, [1]);
        let mut none = Collector::new(0);
        none.add(Prediction { score: Some(0.0), ..Prediction::default() }, |_| panic!("nothing is shown"));
        assert!(none.finish().1.is_empty());
    }
}
