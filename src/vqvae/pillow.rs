//! Pillow's `Image.resize` with its bilinear filter on `F` images (`src/libImaging/Resample.c`): a triangle that
//! grows with the factor when an image shrinks, weights and sums in `f64`, each pass rounded to `f32`.

/// The weights of the input pixels `first..first + weights.len()` in one output pixel.
struct Span {
    first: usize,
    weights: Vec<f64>,
}

fn spans(input: usize, output: usize) -> Vec<Span> {
    let scale = input as f64 / output as f64;
    let support = scale.max(1.0);
    let span = |index: usize| {
        let center = (index as f64 + 0.5) * scale;
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(input);
        let weight = |place: usize| {
            let distance = ((place as f64 - center + 0.5) / support).abs();
            (1.0 - distance).max(0.0)
        };
        let mut weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        if sum != 0.0 {
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        Span { first, weights }
    };
    (0..output).map(span).collect()
}

/// Resizes an image of `from` (height, width) pixels to `to`. No extent may be zero.
pub(super) fn resize(pixels: &[f32], from: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let mut rows = pixels.to_vec();
    if from[1] != to[1] {
        let spans = spans(from[1], to[1]);
        let row = |row: &[f32]| -> Vec<f32> { spans.iter().map(|span| span.sum(|i| row[i])).collect() };
        rows = pixels.chunks_exact(from[1]).flat_map(row).collect();
    }
    if from[0] == to[0] {
        return rows;
    }
    let mut out = Vec::with_capacity(to[0] * to[1]);
    for span in spans(from[0], to[0]) {
        out.extend((0..to[1]).map(|x| span.sum(|y| rows[y * to[1] + x])));
    }
    out
}

impl Span {
    fn sum(&self, pixel: impl Fn(usize) -> f32) -> f32 {
        let places = self.first..;
        let sum: f64 = places.zip(&self.weights).map(|(i, weight)| f64::from(pixel(i)) * weight).sum();
        sum as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_and_doubles_as_pillow_does() {
        // Image.fromarray(np.float32([[0, 4, 8, 12]])).resize((2, 1), BILINEAR)
        assert_eq!(resize(&[0.0, 4.0, 8.0, 12.0], [1, 4], [1, 2]), [2.857_143, 9.142_858]);
        let doubled = resize(&[0.0, 4.0], [1, 2], [1, 4]);
        assert_eq!(doubled, [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(resize(&[0.0, 4.0], [2, 1], [4, 1]), doubled);
        assert_eq!(resize(&[1.0, 2.0], [1, 2], [1, 2]), [1.0, 2.0]);
    }
}
