//! Coloured shapes on quiet backgrounds, with rows for three tasks from the same picture: captioning,
//! detection and counting. Every answer is the only right one for its prompt.

use image::RgbImage;
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};
use serde_json::json;

use super::canvas::{Canvas, Color, Point, bounds_of, distance_to_polygon};
use super::texture::Texture;
use super::{Item, Options};

/// Names of the tasks, in the order of [`Item::rows`].
pub(super) const TASKS: [&str; 3] = ["caption", "detect", "count"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Circle,
    Square,
    Triangle,
    Star,
    Cross,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Circle, Kind::Square, Kind::Triangle, Kind::Star, Kind::Cross];

    const fn name(self) -> &'static str {
        ["circle", "square", "triangle", "star", "cross"][self as usize]
    }

    const fn plural(self) -> &'static str {
        ["circles", "squares", "triangles", "stars", "crosses"][self as usize]
    }

    /// Corners around the origin, of about the same area for every kind; none for the circle, of radius 1.
    fn corners(self) -> Vec<Point> {
        use std::f64::consts::TAU;
        let polar =
            |radius: f64, turn: f64| Point::new(radius * (turn * TAU).sin(), -radius * (turn * TAU).cos());
        match self {
            Kind::Circle => Vec::new(),
            Kind::Square => (0..4).map(|i| polar(1.27, (i as f64 + 0.5) / 4.0)).collect(),
            Kind::Triangle => (0..3).map(|i| polar(1.3, i as f64 / 3.0)).collect(),
            Kind::Star => {
                (0..10).map(|i| polar(if i % 2 == 0 { 1.35 } else { 0.58 }, i as f64 / 10.0)).collect()
            }
            Kind::Cross => {
                let (arm, half) = (1.12, 0.38);
                let quarter = [(half, -arm), (half, -half), (arm, -half)];
                let turned = |(x, y): (f64, f64), turns: usize| match turns {
                    0 => Point::new(x, y),
                    1 => Point::new(-y, x),
                    2 => Point::new(-x, -y),
                    _ => Point::new(y, -x),
                };
                (0..4).flat_map(|turns| quarter.map(|corner| turned(corner, turns))).collect()
            }
        }
    }

    /// Distance of the furthest corner.
    fn reach(self) -> f64 {
        self.corners().iter().map(|corner| corner.x.hypot(corner.y)).fold(1.0, f64::max)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paint {
    Red,
    Green,
    Blue,
    Yellow,
    Purple,
    Orange,
}

impl Paint {
    const ALL: [Paint; 6] =
        [Paint::Red, Paint::Green, Paint::Blue, Paint::Yellow, Paint::Purple, Paint::Orange];

    const fn name(self) -> &'static str {
        ["red", "green", "blue", "yellow", "purple", "orange"][self as usize]
    }

    const fn color(self) -> Color {
        [
            [0.86, 0.10, 0.12],
            [0.13, 0.62, 0.20],
            [0.12, 0.30, 0.86],
            [0.98, 0.88, 0.12],
            [0.55, 0.16, 0.68],
            [0.97, 0.50, 0.06],
        ][self as usize]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Small,
    Large,
}

impl Size {
    const fn name(self) -> &'static str {
        ["small", "large"][self as usize]
    }

    /// Radius of a circle of this size, as a share of the picture; the two are far apart.
    fn sample_radius(self, rng: &mut impl Rng) -> f64 {
        match self {
            Size::Small => rng.random_range(0.085..0.1),
            Size::Large => rng.random_range(0.155..0.18),
        }
    }
}

/// A shape in the unit square.
#[derive(Debug, Clone, PartialEq)]
struct Object {
    kind: Kind,
    paint: Paint,
    size: Size,
    center: Point,
    radius: f64,
    /// Turn to the right, in radians.
    angle: f64,
}

impl Object {
    /// "red circle": the name used for detection.
    fn name(&self) -> String {
        format!("{} {}", self.paint.name(), self.kind.name())
    }

    fn described(&self) -> String {
        format!("a {} {}", self.size.name(), self.name())
    }

    fn reach(&self) -> f64 {
        self.radius * self.kind.reach()
    }

    fn corners(&self) -> Vec<Point> {
        let (sin, cos) = self.angle.sin_cos();
        let place = |corner: Point| {
            let turned = Point::new(corner.x * cos - corner.y * sin, corner.x * sin + corner.y * cos);
            Point::new(self.center.x + self.radius * turned.x, self.center.y + self.radius * turned.y)
        };
        self.kind.corners().into_iter().map(place).collect()
    }

    /// Least and greatest corner of the tight box.
    fn bounds(&self) -> [Point; 2] {
        match self.kind {
            Kind::Circle => bounds_of(&[self.center], self.radius),
            _ => bounds_of(&self.corners(), 0.0),
        }
    }

    /// Moves the shape to a random place inside the picture.
    fn place(&mut self, rng: &mut impl Rng) {
        let border = self.reach() + 0.01;
        let mut coordinate = || rng.random_range(border..1.0 - border);
        self.center = Point::new(coordinate(), coordinate());
    }

    fn draw(&self, canvas: &mut Canvas, size: f64) {
        let corners: Vec<Point> = self.corners().into_iter().map(|corner| corner.scaled(size)).collect();
        let (center, radius) = (self.center.scaled(size), self.radius * size);
        let distance = |point: Point| match self.kind {
            Kind::Circle => point.distance(center) - radius,
            _ => distance_to_polygon(point, &corners),
        };
        let bounds = self.bounds().map(|corner| corner.scaled(size));
        // A darker rim inside the box parts yellow from pale backgrounds.
        let rim = (0.008 * size).max(0.9);
        canvas.paint(bounds, self.paint.color().map(|channel| channel * 0.5), distance);
        canvas.paint(bounds, self.paint.color(), |point| distance(point) + rim);
    }
}

/// Shapes from left to right.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Scene {
    objects: Vec<Object>,
    texture: Texture,
}

/// Places tried for the same shapes before others are drawn.
const PLACEMENTS: usize = 300;
/// Free space around a shape.
const GAP: f64 = 0.03;
/// Least difference between centres where their order from left to right is asked for.
const COLUMN_GAP: f64 = 0.08;
/// How much further apart two shapes are along one axis than along the other, to be "left of" or "above".
const CLEAR_DIRECTION: f64 = 1.7;

/// Shapes in one picture at most.
pub(super) const MAX_OBJECTS: usize = 4;

impl Scene {
    /// Draws lots until the shapes fit, and their order and direction are plain to see.
    pub(super) fn sample(rng: &mut impl Rng, max_objects: usize) -> Self {
        let counts = [(1, 5), (2, 7), (3, 5), (4, 3)];
        let counts = &counts[..max_objects.clamp(1, counts.len())];
        let count = counts.choose_weighted(rng, |&(_, weight)| weight).expect("the weights are positive").0;
        let texture = Texture::sample(rng);
        loop {
            let mut objects: Vec<Object> = Vec::with_capacity(count);
            for _ in 0..count {
                let object = sample_object(rng, &objects);
                objects.push(object);
            }
            // Many tries for the same shapes: giving up at once would leave few scenes of large ones.
            for _ in 0..PLACEMENTS {
                objects.iter_mut().for_each(|object| object.place(rng));
                objects.sort_by(|a, b| a.center.x.total_cmp(&b.center.x));
                if is_clear(&objects) {
                    return Scene { objects, texture };
                }
            }
        }
    }

    pub(super) fn draw(&self, size_px: usize) -> RgbImage {
        let size = size_px as f64;
        let mut canvas = Canvas::new(size_px, |point| {
            let pixel = point.y.floor() * size + point.x.floor();
            self.texture.color(point.scaled(1.0 / size), pixel as u64)
        });
        self.objects.iter().for_each(|object| object.draw(&mut canvas, size));
        canvas.into_image()
    }

    /// "a small red circle left of a large blue square"; more than two are listed from left to right.
    fn caption(&self) -> String {
        match &self.objects[..] {
            [a, b] if is_sideways(a, b) => format!("{} left of {}", a.described(), b.described()),
            [a, b] => {
                let (upper, lower) = if a.center.y < b.center.y { (a, b) } else { (b, a) };
                format!("{} above {}", upper.described(), lower.described())
            }
            objects => {
                let mut parts: Vec<String> = objects.iter().map(Object::described).collect();
                let last = parts.pop().unwrap_or_default();
                if parts.is_empty() { last } else { format!("{} and {last}", parts.join(", ")) }
            }
        }
    }

    /// Names without repetition, as they appear from left to right.
    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for name in self.objects.iter().map(Object::name) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// The objects in the order of [`names`](Self::names), each with its box.
    fn boxes(&self) -> Vec<(String, [f64; 4])> {
        let of_name = |name: &String| {
            let named = self.objects.iter().filter(|object| object.name() == *name);
            let boxed = |object: &Object| {
                let [low, high] = object.bounds();
                (name.clone(), [low.y, low.x, high.y, high.x])
            };
            named.map(boxed).collect::<Vec<_>>()
        };
        self.names().iter().flat_map(of_name).collect()
    }

    /// What can be counted, with the answers: every kind and every colour.
    fn counts(&self) -> Vec<(String, usize)> {
        let count =
            |test: &dyn Fn(&Object) -> bool| self.objects.iter().filter(|object| test(object)).count();
        let kinds = Kind::ALL.map(|kind| (format!("count {}", kind.plural()), count(&|o| o.kind == kind)));
        let paints =
            Paint::ALL.map(|paint| (format!("count {} shapes", paint.name()), count(&|o| o.paint == paint)));
        kinds.into_iter().chain(paints).collect()
    }

    /// A question about the picture. The answer is drawn first, or nearly all would be 0 or 1.
    fn sample_count(&self, rng: &mut impl Rng) -> (String, usize) {
        let counts = self.counts();
        let mut answers: Vec<usize> = counts.iter().map(|&(_, answer)| answer).collect();
        answers.sort_unstable();
        answers.dedup();
        let answer = *answers.choose(rng).expect("there are always shapes to count");
        let questions: Vec<_> = counts.into_iter().filter(|&(_, count)| count == answer).collect();
        questions.choose(rng).expect("the answer was taken from a question").clone()
    }
}

/// The picture of one scene and its rows, one for each of [`TASKS`].
pub(super) fn item(rng: &mut impl Rng, options: &Options) -> Item {
    let Options { max_objects, size_px, loc_grid, .. } = *options;
    let scene = Scene::sample(rng, max_objects);
    let (count_prefix, count) = scene.sample_count(rng);
    let caption = scene.caption();
    let image = scene.draw(size_px);

    let boxes = scene.boxes();
    let detect_prefix = format!("detect {}", scene.names().join(" ; "));
    let detect_suffix: Vec<String> =
        boxes.iter().map(|(name, corners)| format!("{} {name}", loc_tokens(*corners, loc_grid))).collect();
    let detect_suffix = detect_suffix.join(" ; ");
    let names: Vec<String> = boxes.iter().map(|(name, _)| name.clone()).collect();
    let pixels: Vec<[f64; 4]> = boxes
        .iter()
        .map(|(_, corners)| corners.map(|v| (v * size_px as f64 * 100.0).round() / 100.0))
        .collect();

    Item {
        image,
        folder: None,
        rows: vec![
            json!({"prefix": "caption en", "suffix": caption}),
            json!({"prefix": detect_prefix, "suffix": detect_suffix, "names": names, "boxes_y1x1y2x2": pixels}),
            json!({"prefix": count_prefix, "suffix": count.to_string(), "label": count}),
        ],
    }
}

/// `<locY1><locX1><locY2><locX2>` of a box in the unit square, in 1024 bins. The far edge would be bin 1024,
/// for which there is no token: it goes to the last.
fn loc_tokens(corners: [f64; 4], grid: Option<usize>) -> String {
    let snapped = |v: f64| grid.map_or(v, |grid| (v * grid as f64).round() / grid as f64);
    let bin = |v: f64| (v * 1024.0).round_ties_even().clamp(0.0, 1023.0) as u32;
    corners.iter().map(|&v| format!("<loc{:04}>", bin(snapped(v)))).collect()
}

/// A shape without a place. Taking after an earlier one, in kind or colour, makes counts above one common.
fn sample_object(rng: &mut impl Rng, others: &[Object]) -> Object {
    let mut kind = Kind::ALL[rng.random_range(0..Kind::ALL.len())];
    let mut paint = Paint::ALL[rng.random_range(0..Paint::ALL.len())];
    if let Some(other) = others.choose(rng) {
        match rng.random_range(0..10) {
            0..4 => kind = other.kind,
            4..7 => paint = other.paint,
            _ => {}
        }
    }
    let size = if rng.random_bool(0.5) { Size::Small } else { Size::Large };
    let (radius, angle) = (size.sample_radius(rng), rng.random_range(-0.25..0.25));
    Object { kind, paint, size, center: Point::new(0.5, 0.5), radius, angle }
}

fn is_sideways(a: &Object, b: &Object) -> bool {
    (a.center.x - b.center.x).abs() > (a.center.y - b.center.y).abs()
}

fn is_clear(objects: &[Object]) -> bool {
    let pairs = || objects.iter().enumerate().flat_map(|(i, a)| objects[i + 1..].iter().map(move |b| (a, b)));
    let apart = pairs().all(|(a, b)| a.center.distance(b.center) >= a.reach() + b.reach() + GAP);
    let ordered = match objects {
        [_] => true,
        [a, b] => {
            let (dx, dy) = ((a.center.x - b.center.x).abs(), (a.center.y - b.center.y).abs());
            dx.max(dy) >= CLEAR_DIRECTION * dx.min(dy)
        }
        _ => pairs().all(|(a, b)| (a.center.x - b.center.x).abs() >= COLUMN_GAP),
    };
    apart && ordered
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn scenes(count: u64) -> impl Iterator<Item = Scene> {
        (0..count).map(|seed| Scene::sample(&mut ChaCha8Rng::seed_from_u64(seed), MAX_OBJECTS))
    }

    fn object(paint: Paint, kind: Kind, x: f64, y: f64) -> Object {
        Object { kind, paint, size: Size::Small, center: Point::new(x, y), radius: 0.1, angle: 0.0 }
    }

    fn scene(objects: Vec<Object>) -> Scene {
        Scene { objects, texture: Texture::sample(&mut ChaCha8Rng::seed_from_u64(0)) }
    }

    #[test]
    fn captions_say_what_is_where() {
        let (red, blue) =
            (object(Paint::Red, Kind::Circle, 0.2, 0.5), object(Paint::Blue, Kind::Square, 0.8, 0.6));
        let low = object(Paint::Orange, Kind::Star, 0.3, 0.9);
        let caption = |objects: &[&Object]| scene(objects.iter().map(|o| (*o).clone()).collect()).caption();
        assert_eq!(caption(&[&red]), "a small red circle");
        assert_eq!(caption(&[&red, &blue]), "a small red circle left of a small blue square");
        let above = object(Paint::Green, Kind::Cross, 0.35, 0.1);
        assert_eq!(caption(&[&low, &above]), "a small green cross above a small orange star");
        assert_eq!(
            caption(&[&red, &low, &blue]),
            "a small red circle, a small orange star and a small blue square"
        );
    }

    #[test]
    fn rows_name_boxes_in_the_order_of_the_prompt() {
        let scene = scene(vec![
            object(Paint::Red, Kind::Circle, 0.1, 0.5),
            object(Paint::Blue, Kind::Circle, 0.5, 0.5),
            object(Paint::Red, Kind::Circle, 0.9, 0.5),
        ]);
        assert_eq!(scene.names(), ["red circle", "blue circle"]);
        let boxes = scene.boxes();
        assert_eq!(
            boxes.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>(),
            ["red circle", "red circle", "blue circle"]
        );
        assert_eq!(boxes[1].1.map(|v| (v * 100.0).round()), [40.0, 80.0, 60.0, 100.0]);
        let counts: Vec<_> = scene.counts().into_iter().filter(|&(_, n)| n > 0).collect();
        let expected = [("count circles", 3), ("count red shapes", 2), ("count blue shapes", 1)];
        assert_eq!(counts, expected.map(|(question, n)| (question.to_owned(), n)));
    }

    #[test]
    fn the_far_edge_has_a_token() {
        assert_eq!(loc_tokens([0.0, 0.25, 0.9999, 1.0], None), "<loc0000><loc0256><loc1023><loc1023>");
        assert_eq!(loc_tokens([0.01, 0.27, 0.9, 1.0], Some(32)), "<loc0000><loc0288><loc0928><loc1023>");
        // Halves go to the even bin, as in Python's round.
        assert_eq!(
            loc_tokens([0.5 / 1024.0, 1.5 / 1024.0, 2.5 / 1024.0, 1.2], None),
            "<loc0000><loc0002><loc0002><loc1023>"
        );
    }

    /// The box of what is drawn, found from the pixels, is the object's box.
    #[test]
    fn boxes_are_tight_around_the_pixels() {
        let size = 200;
        for kind in Kind::ALL {
            for angle in [-0.25, 0.0, 0.13] {
                let object = Object { angle, ..object(Paint::Blue, kind, 0.41, 0.55) };
                let mut canvas = Canvas::new(size, |_| [1.0; 3]);
                object.draw(&mut canvas, size as f64);
                let image = canvas.into_image();
                let drawn = image.enumerate_pixels().filter(|(_, _, pixel)| pixel.0[0] < 200);
                let drawn: Vec<Point> =
                    drawn.map(|(x, y, _)| Point::new(x as f64 + 0.5, y as f64 + 0.5)).collect();
                let found = bounds_of(&drawn, 0.5);
                for (found, said) in found.into_iter().zip(object.bounds()) {
                    // The tips of a star are thinner than a pixel.
                    let off = found.distance(said.scaled(size as f64));
                    assert!(off < 2.5, "{kind:?} {angle} {found:?} {said:?}");
                }
            }
        }
    }

    #[test]
    fn sampled_scenes_are_unambiguous() {
        let mut sizes = [0; 2];
        for scene in scenes(500) {
            let objects = &scene.objects;
            assert!((1..=4).contains(&objects.len()));
            assert!(objects.is_sorted_by(|a, b| a.center.x < b.center.x));
            objects.iter().for_each(|object| sizes[object.size as usize] += 1);
            let boxes: Vec<[f64; 4]> = scene.boxes().into_iter().map(|(_, corners)| corners).collect();
            assert!(boxes.iter().flatten().all(|v| (0.0..=1.0).contains(v)));
            if let [a, b] = &objects[..] {
                let apart = [(a.center.x - b.center.x).abs(), (a.center.y - b.center.y).abs()];
                let sideways = scene.caption().contains(" left of ");
                assert!(apart[!sideways as usize] >= 1.7 * apart[sideways as usize]);
            }
        }
        // Rejection must not leave small shapes only.
        assert!(sizes[Size::Large as usize] * 2 > sizes[Size::Small as usize], "{sizes:?}");
    }

    #[test]
    fn counting_asks_for_more_than_none_and_one() {
        let mut answers = [0; 5];
        for (seed, scene) in scenes(1000).enumerate() {
            let (question, answer) = scene.sample_count(&mut ChaCha8Rng::seed_from_u64(seed as u64));
            assert!(scene.counts().contains(&(question, answer)));
            answers[answer] += 1;
        }
        assert!(answers[0] < 450 && answers[2] > 120 && answers[3] > 30, "{answers:?}");
    }

    #[test]
    fn every_kind_and_colour_turns_up() {
        let objects: Vec<Object> = scenes(200).flat_map(|scene| scene.objects).collect();
        assert!(Kind::ALL.iter().all(|kind| objects.iter().any(|object| object.kind == *kind)));
        assert!(Paint::ALL.iter().all(|paint| objects.iter().any(|object| object.paint == *paint)));
    }
}
