//! Counting the crossings of a red and a blue line of two segments each: 0, 1 or 2.
//!
//! The task is from "How many times do the lines cross?" of BlindTest (Rahmanzadehgervi et al., "Vision
//! language models are blind", 2024): both lines go through the same three columns at random heights.

use image::RgbImage;
use rand::{Rng, RngExt};
use serde_json::json;

use super::Item;
use super::canvas::{Canvas, Color, Point};

const PREFIX: &str = "count intersection";
/// Columns of the three vertices, as shares of the width.
const COLUMNS: [f64; 3] = [10.0 / 224.0, 0.5, 214.0 / 224.0];
/// No vertex comes closer to the other line than this: neither does a line just touch or just miss, nor do
/// lines run side by side so close that they look like one. In shares of the size: 3 pixels of 64.
const CLEARANCE: f64 = 0.047;
/// Two crossings are at least this far apart.
const SEPARATION: f64 = 0.1;
/// Points closer than this are one crossing: a vertex shared by two segments is found on both.
const SAME_POINT: f64 = 1e-9;

const RED: Color = [0.86, 0.10, 0.10];
const BLUE: Color = [0.10, 0.20, 0.86];
const WHITE: Color = [1.0; 3];

/// A red and a blue line in the unit square.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lines {
    red: [Point; 3],
    blue: [Point; 3],
}

impl Lines {
    /// Draws lots until a pair has `label` crossings, all of them plain to see.
    pub(super) fn sample(rng: &mut impl Rng, label: usize) -> Self {
        loop {
            let lines = Lines { red: sample_line(rng), blue: sample_line(rng) };
            let crossings = crossings(&lines.red, &lines.blue);
            let apart = match crossings[..] {
                [a, b] => a.distance(b) >= SEPARATION,
                _ => true,
            };
            if crossings.len() == label && apart && lines.clearance() >= CLEARANCE {
                return lines;
            }
        }
    }

    /// The least distance of a vertex to the other line. Lines that do not cross are nowhere closer.
    fn clearance(&self) -> f64 {
        let least = |vertices: &[Point], line: &[Point]| {
            vertices.iter().map(|vertex| vertex.distance_to_polyline(line)).fold(f64::INFINITY, f64::min)
        };
        least(&self.red, &self.blue).min(least(&self.blue, &self.red))
    }

    pub(super) fn draw(&self, size_px: usize) -> RgbImage {
        let size = size_px as f64;
        let mut canvas = Canvas::new(size_px, |_| WHITE);
        // A line thinner than this is a row of grey dots where it is steep.
        let width = (0.011 * size).max(1.5);
        for (line, color) in [(&self.red, RED), (&self.blue, BLUE)] {
            canvas.stroke(&line.map(|point| point.scaled(size)), width, color);
        }
        canvas.into_image()
    }
}

/// The picture and row of one example; labels take turns, so that every set is balanced.
pub(super) fn item(rng: &mut impl Rng, index: usize, size_px: usize) -> Item {
    let label = index % 3;
    let lines = Lines::sample(rng, label);
    let row = json!({"prefix": PREFIX, "suffix": label.to_string(), "label": label});
    Item { image: lines.draw(size_px), folder: Some(label.to_string()), rows: vec![row] }
}

fn sample_line(rng: &mut impl Rng) -> [Point; 3] {
    COLUMNS.map(|x| Point::new(x, rng.random_range(COLUMNS[0]..COLUMNS[2])))
}

/// The distinct points where two lines of straight segments meet.
fn crossings(a: &[Point], b: &[Point]) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::new();
    for ends_a in a.windows(2) {
        for ends_b in b.windows(2) {
            if let Some(point) = meet([ends_a[0], ends_a[1]], [ends_b[0], ends_b[1]])
                && points.iter().all(|known| known.distance(point) > SAME_POINT)
            {
                points.push(point);
            }
        }
    }
    points
}

/// Where two segments meet, ends included. Parallel ones do not: the clearance rules out that they overlap.
fn meet(a: [Point; 2], b: [Point; 2]) -> Option<Point> {
    let cross = |u: Point, v: Point| u.x * v.y - u.y * v.x;
    let minus = |u: Point, v: Point| Point::new(u.x - v.x, u.y - v.y);
    let (along_a, along_b, between) = (minus(a[1], a[0]), minus(b[1], b[0]), minus(b[0], a[0]));
    let area = cross(along_a, along_b);
    if area == 0.0 {
        return None;
    }
    let (s, t) = (cross(between, along_b) / area, cross(between, along_a) / area);
    let within = |v: f64| (0.0..=1.0).contains(&v);
    (within(s) && within(t)).then(|| Point::new(a[0].x + s * along_a.x, a[0].y + s * along_a.y))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn line(heights: [f64; 3]) -> [Point; 3] {
        [0, 1, 2].map(|i| Point::new(COLUMNS[i], heights[i]))
    }

    #[test]
    fn a_crossing_at_a_shared_vertex_counts_once() {
        let cases = [
            ([0.1, 0.2, 0.1], [0.8, 0.9, 0.7], 0),
            ([0.1, 0.9, 0.8], [0.8, 0.2, 0.1], 1),
            ([0.1, 0.9, 0.1], [0.8, 0.2, 0.8], 2),
            // Through the same middle vertex: the seed's recipe called this two.
            ([0.1, 0.5, 0.9], [0.9, 0.5, 0.1], 1),
            // The middle vertex of one lies on the other, without going across.
            ([0.5, 0.5, 0.5], [0.9, 0.5, 0.9], 1),
        ];
        for (a, b, count) in cases {
            assert_eq!(crossings(&line(a), &line(b)).len(), count, "{a:?} {b:?}");
        }
    }

    /// Independently of the geometry above: with common columns, a crossing is a change of which is higher.
    #[test]
    fn sampled_lines_have_their_label_and_a_margin() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for number in 0..600 {
            let label = number % 3;
            let lines = Lines::sample(&mut rng, label);
            let gaps = [0, 1, 2].map(|i| lines.red[i].y - lines.blue[i].y);
            let changes = gaps.windows(2).filter(|pair| pair[0] * pair[1] < 0.0).count();
            assert_eq!(changes, label);
            assert!(gaps.iter().all(|gap| gap.abs() >= CLEARANCE));
            let all = lines.red.iter().chain(&lines.blue);
            assert!(all.clone().all(|point| (COLUMNS[0]..COLUMNS[2]).contains(&point.y)));
        }
    }

    #[test]
    fn pictures_are_white_with_a_red_and_a_blue_line() {
        for size_px in [64, 112, 224] {
            let image = Lines::sample(&mut ChaCha8Rng::seed_from_u64(1), 2).draw(size_px);
            assert_eq!(image.dimensions(), (size_px as u32, size_px as u32));
            let count = |test: fn(&[u8; 3]) -> bool| image.pixels().filter(|pixel| test(&pixel.0)).count();
            assert!(count(|&[r, g, b]| r > 200 && g < 60 && b < 60) > size_px / 2);
            assert!(count(|&[r, g, b]| r < 60 && g < 90 && b > 200) > size_px / 2);
            assert!(count(|&pixel| pixel == [255; 3]) > size_px * size_px * 8 / 10);
        }
    }
}
