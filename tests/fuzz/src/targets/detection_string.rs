//! Answers in PaliGemma's detection language, the input being the text.

use paligemma::detection::{MAX_LOC, format_detections, label_text, parse_detections, parse_unclamped};

pub fn run(data: &[u8]) -> Option<()> {
    let text = std::str::from_utf8(data).ok()?;
    let found = parse_detections(text);
    for object in &found.objects {
        assert!(object.y1 <= object.y2 && object.x1 <= object.x2, "{object:?} is the wrong way round");
        assert!(object.y2 <= MAX_LOC && object.x2 <= MAX_LOC, "{object:?} is no box of tokens");
    }
    // What was understood is written so that it is understood again.
    let again = parse_detections(&format_detections(&found.objects));
    assert_eq!(again.invalid, 0, "{:?}", found.objects);
    assert_eq!(again.objects.len(), found.objects.len());
    for (object, again) in found.objects.iter().zip(&again.objects) {
        let corners = |o: &paligemma::detection::Detection| [o.y1, o.x1, o.y2, o.x2];
        assert_eq!(corners(object), corners(again));
        assert_eq!(label_text(&object.label), again.label);
    }
    // Reading without clamping takes all that and more.
    let (unclamped, _) = parse_unclamped(text);
    assert!(unclamped.len() >= found.objects.len());
    Some(())
}

pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "<loc0100><loc0200><loc0500><loc0600> cat ; <loc0001><loc0002><loc0003><loc0004> dog",
        "<loc0100><loc0200><loc0500><loc1024> cat\n<loc-024><loc0000><loc0512><loc0512>",
        "it is: <loc0100><loc0200><loc0500><loc0600><seg001><seg127> cat <loc0001>",
        "<loc0001><loc0002><loc0003><loc0004><loc0001><loc0002><loc0003><loc0004> traffic; light",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}
