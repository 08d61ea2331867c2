//! Quiet backgrounds: a pale grey-ish tone with a pattern of low contrast, so that shapes stand out.

use std::f64::consts::TAU;

use rand::{Rng, RngExt};

use super::canvas::{Color, Point};
use crate::data::mix;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Texture {
    tone: Color,
    pattern: Pattern,
    /// How far the pattern lightens and darkens.
    contrast: f64,
    angle: f64,
    /// Length after which the pattern repeats, as a share of the picture.
    period: f64,
    noise_seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Pattern {
    Gradient,
    Stripes,
    Checks,
    Dots,
    Clouds,
}

const PATTERNS: [Pattern; 5] =
    [Pattern::Gradient, Pattern::Stripes, Pattern::Checks, Pattern::Dots, Pattern::Clouds];
/// Contrast of the fine grain that lies over every pattern.
const GRAIN: f64 = 0.02;

impl Texture {
    pub(super) fn sample(rng: &mut impl Rng) -> Self {
        let grey = rng.random_range(0.66..0.9);
        Texture {
            tone: [0; 3].map(|_| grey + rng.random_range(-0.035..0.035)),
            pattern: PATTERNS[rng.random_range(0..PATTERNS.len())],
            contrast: rng.random_range(0.025..0.06),
            angle: rng.random_range(0.0..TAU),
            period: rng.random_range(0.1..0.22),
            noise_seed: rng.random(),
        }
    }

    /// The colour at a point of the unit square; `pixel` tells the grain apart.
    pub(super) fn color(&self, point: Point, pixel: u64) -> Color {
        let (sin, cos) = self.angle.sin_cos();
        // Turned about the middle of the picture.
        let (x, y) = (point.x - 0.5, point.y - 0.5);
        let (u, v) = (x * cos + y * sin, y * cos - x * sin);
        let wave = |t: f64| (t / self.period * TAU).sin();
        // Steep enough to read as an edge, soft enough not to flicker when the picture is resized.
        let edge = |t: f64| (t * 3.0).clamp(-1.0, 1.0);
        let value = match self.pattern {
            Pattern::Gradient => 2.0 * u,
            Pattern::Stripes => edge(wave(u)),
            Pattern::Checks => edge(2.0 * wave(u) * wave(v)),
            Pattern::Dots => edge(wave(u) + wave(v) - 0.6),
            Pattern::Clouds => 1.5 * self.clouds(point),
        };
        let grain = unit(mix(self.noise_seed, pixel)) - 0.5;
        self.tone.map(|channel| channel + self.contrast * value + GRAIN * grain)
    }

    /// Smooth noise in -1..=1: random values on a lattice, blended between.
    fn clouds(&self, point: Point) -> f64 {
        let cell = |v: f64| {
            let (whole, part) = ((v / self.period).floor(), (v / self.period).fract());
            (whole as u64, part * part * (3.0 - 2.0 * part))
        };
        let ((column, right), (row, below)) = (cell(point.x), cell(point.y));
        let corner = |dx: u64, dy: u64| unit(mix(mix(self.noise_seed, column + dx), row + dy)) * 2.0 - 1.0;
        let blend = |a: f64, b: f64, t: f64| a + (b - a) * t;
        blend(blend(corner(0, 0), corner(1, 0), right), blend(corner(0, 1), corner(1, 1), right), below)
    }
}

/// The upper bits as a number in 0..1.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}
