//! A small rasteriser: distance to a figure becomes coverage of a pixel, which blends a colour in.

use image::RgbImage;

/// A place in the picture; x to the right, y down. In the unit square or in pixels, as the caller says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub x: f64,
    pub y: f64,
}

impl Point {
    pub(super) const fn new(x: f64, y: f64) -> Self {
        Point { x, y }
    }

    pub(super) fn scaled(self, factor: f64) -> Self {
        Point::new(self.x * factor, self.y * factor)
    }

    pub(super) fn distance(self, other: Point) -> f64 {
        (self.x - other.x).hypot(self.y - other.y)
    }

    /// Distance to the segment from `a` to `b`.
    pub(super) fn distance_to_segment(self, a: Point, b: Point) -> f64 {
        let (dx, dy) = (b.x - a.x, b.y - a.y);
        let length_squared = dx * dx + dy * dy;
        if length_squared == 0.0 {
            return self.distance(a);
        }
        let along = (((self.x - a.x) * dx + (self.y - a.y) * dy) / length_squared).clamp(0.0, 1.0);
        self.distance(Point::new(a.x + along * dx, a.y + along * dy))
    }

    pub(super) fn distance_to_polyline(self, points: &[Point]) -> f64 {
        points.windows(2).map(|ends| self.distance_to_segment(ends[0], ends[1])).fold(f64::INFINITY, f64::min)
    }
}

/// Signed distance to a closed polygon, negative inside.
pub(super) fn distance_to_polygon(point: Point, corners: &[Point]) -> f64 {
    let mut nearest = f64::INFINITY;
    let mut inside = false;
    for (i, &a) in corners.iter().enumerate() {
        let b = corners[(i + 1) % corners.len()];
        nearest = nearest.min(point.distance_to_segment(a, b));
        // A ray to the right crosses this edge: inside after an odd number of them.
        let spans = (a.y > point.y) != (b.y > point.y);
        if spans && point.x < a.x + (point.y - a.y) / (b.y - a.y) * (b.x - a.x) {
            inside = !inside;
        }
    }
    if inside { -nearest } else { nearest }
}

/// Red, green, blue in 0..=1, blended as stored (no gamma).
pub(super) type Color = [f64; 3];

/// A square picture being drawn, in pixels.
pub(super) struct Canvas {
    size: usize,
    pixels: Vec<Color>,
}

impl Canvas {
    /// Fills every pixel with the colour at its centre.
    pub(super) fn new(size: usize, color: impl Fn(Point) -> Color) -> Self {
        let centre = |i: usize| Point::new((i % size) as f64 + 0.5, (i / size) as f64 + 0.5);
        Canvas { size, pixels: (0..size * size).map(|i| color(centre(i))).collect() }
    }

    /// Paints where `distance`, in pixels, is negative, with an edge one pixel soft. `bounds` (least and
    /// greatest corner) says where that can be.
    pub(super) fn paint(&mut self, bounds: [Point; 2], color: Color, distance: impl Fn(Point) -> f64) {
        let range = |low: f64, high: f64| {
            let clamp = |v: f64| v.clamp(0.0, self.size as f64) as usize;
            clamp((low - 1.0).floor())..clamp((high + 1.0).ceil())
        };
        let (columns, rows) = (range(bounds[0].x, bounds[1].x), range(bounds[0].y, bounds[1].y));
        for y in rows {
            for x in columns.clone() {
                let coverage = (0.5 - distance(Point::new(x as f64 + 0.5, y as f64 + 0.5))).clamp(0.0, 1.0);
                if coverage > 0.0 {
                    let pixel = &mut self.pixels[y * self.size + x];
                    pixel.iter_mut().zip(color).for_each(|(old, new)| *old += coverage * (new - *old));
                }
            }
        }
    }

    pub(super) fn stroke(&mut self, points: &[Point], width: f64, color: Color) {
        // One distance to the whole line, rather than segment by segment, keeps the joints even.
        let bounds = bounds_of(points, width / 2.0);
        self.paint(bounds, color, |point| point.distance_to_polyline(points) - width / 2.0);
    }

    pub(super) fn into_image(self) -> RgbImage {
        let byte = |v: f64| (v.clamp(0.0, 1.0) * 255.0).round() as u8;
        RgbImage::from_fn(self.size as u32, self.size as u32, |x, y| {
            image::Rgb(self.pixels[y as usize * self.size + x as usize].map(byte))
        })
    }
}

/// Least and greatest corner of the points, `margin` further out.
pub(super) fn bounds_of(points: &[Point], margin: f64) -> [Point; 2] {
    let mut bounds =
        [Point::new(f64::INFINITY, f64::INFINITY), Point::new(f64::NEG_INFINITY, f64::NEG_INFINITY)];
    for point in points {
        bounds[0] = Point::new(bounds[0].x.min(point.x - margin), bounds[0].y.min(point.y - margin));
        bounds[1] = Point::new(bounds[1].x.max(point.x + margin), bounds[1].y.max(point.y + margin));
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHITE: Color = [1.0; 3];
    const BLACK: Color = [0.0; 3];

    #[test]
    fn edges_are_covered_by_halves() {
        let mut canvas = Canvas::new(8, |_| WHITE);
        let square = [(2.0, 2.0), (6.0, 2.0), (6.0, 5.5), (2.0, 5.5)].map(|(x, y)| Point::new(x, y));
        canvas.paint(bounds_of(&square, 0.0), BLACK, |p| distance_to_polygon(p, &square));
        let column: Vec<u8> = (0..8).map(|y| canvas_pixel(&canvas, 4, y)).collect();
        assert_eq!(column, [255, 255, 0, 0, 0, 128, 255, 255]);
    }

    fn canvas_pixel(canvas: &Canvas, x: usize, y: usize) -> u8 {
        (canvas.pixels[y * 8 + x][0] * 255.0).round() as u8
    }

    #[test]
    fn a_stroke_has_its_width_and_crossing_itself_changes_nothing() {
        let mut canvas = Canvas::new(8, |_| WHITE);
        let line = [Point::new(0.0, 4.0), Point::new(8.0, 4.0), Point::new(0.0, 4.0)];
        canvas.stroke(&line, 3.0, BLACK);
        let column: Vec<u8> = (0..8).map(|y| canvas_pixel(&canvas, 4, y)).collect();
        assert_eq!(column, [255, 255, 128, 0, 0, 128, 255, 255]);
    }

    #[test]
    fn polygon_distances_have_the_right_sign() {
        // An arrow head: the notch between its wings is outside.
        let arrow = [(0.0, 0.0), (4.0, 4.0), (0.0, 2.0), (-4.0, 4.0)].map(|(x, y)| Point::new(x, y));
        assert!(distance_to_polygon(Point::new(0.0, 1.0), &arrow) < 0.0);
        assert!(distance_to_polygon(Point::new(0.0, 3.0), &arrow) > 0.0);
        assert!((distance_to_polygon(Point::new(0.0, -2.0), &arrow) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn figures_may_stick_out_of_the_picture() {
        let mut canvas = Canvas::new(8, |_| WHITE);
        let line = [Point::new(-30.0, -30.0), Point::new(30.0, 30.0)];
        canvas.stroke(&line, 2.0, BLACK);
        assert_eq!(canvas_pixel(&canvas, 3, 3), 0);
        assert_eq!(canvas_pixel(&canvas, 7, 0), 255);
    }
}
