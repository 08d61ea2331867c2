//! Colours for labels: the first label a palette meets gets its first colour, and keeps it.

/// Red, green, blue.
pub type Rgb = [u8; 3];

/// Chosen to be told apart on photographs and, as far as possible, with colour-blind eyes: neighbours in the
/// list differ in lightness as well as in hue.
const COLOURS: [Rgb; 10] = [
    [0xe6, 0x39, 0x46],
    [0x2e, 0xc4, 0xb6],
    [0xff, 0xb7, 0x03],
    [0x3a, 0x6e, 0xe8],
    [0x9b, 0xe5, 0x64],
    [0xb5, 0x17, 0x9e],
    [0xff, 0x7f, 0x51],
    [0x72, 0xdd, 0xf7],
    [0x7b, 0x4f, 0xd6],
    [0xf7, 0x9a, 0xd3],
];

/// One colour per label; the eleventh label shares the first one's.
#[derive(Debug, Clone, Default)]
pub struct Palette {
    labels: Vec<String>,
}

impl Palette {
    pub fn colour(&mut self, label: &str) -> Rgb {
        let index = self.labels.iter().position(|known| known == label).unwrap_or_else(|| {
            self.labels.push(label.to_owned());
            self.labels.len() - 1
        });
        COLOURS[index % COLOURS.len()]
    }
}

/// Black or white, whichever reads better on `background` (WCAG 2 relative luminance).
pub fn ink_on(background: Rgb) -> Rgb {
    let linear = |channel: u8| {
        let c = f64::from(channel) / 255.0;
        if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
    };
    let [r, g, b] = background.map(linear);
    // At this luminance the contrast ratios with black and with white are equal.
    if 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 { [0; 3] } else { [255; 3] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_keep_their_colour_and_ten_are_distinct() {
        let mut palette = Palette::default();
        let labels: Vec<String> = (0..10).map(|i| format!("label {i}")).collect();
        let first: Vec<Rgb> = labels.iter().map(|label| palette.colour(label)).collect();
        let again: Vec<Rgb> = labels.iter().rev().map(|label| palette.colour(label)).collect();
        assert!(first.iter().eq(again.iter().rev()));
        let distinct: std::collections::HashSet<Rgb> = first.iter().copied().collect();
        assert_eq!(distinct.len(), 10);
        assert_eq!(palette.colour("eleventh"), first[0]);
    }

    #[test]
    fn ink_contrasts() {
        assert_eq!(ink_on([255, 255, 255]), [0; 3]);
        assert_eq!(ink_on([0, 0, 0]), [255; 3]);
        assert_eq!(ink_on([255, 183, 3]), [0; 3]);
        assert_eq!(ink_on([123, 79, 214]), [255; 3]);
    }
}
