//! Sets of pictures with boxes as data sources, and how boxes become prompts and answers.

use super::decode::{Decoder, Field, FilePath};
use super::node::{Kind, Node};
use super::schema::{POSITIVE, unknown_word};
use crate::config_section;
use crate::detection::{LocOptions, LocRound, LocScale};

impl Field for LocScale {
    fn type_name() -> String {
        "1023 \\| 1024".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<LocScale> {
        match node.kind {
            Kind::Int(1023) => Some(LocScale::Last1023),
            Kind::Int(1024) => Some(LocScale::Bins1024),
            _ => decoder.expected(node, "1023 or 1024"),
        }
    }

    fn encode(&self) -> Node {
        usize::from(u16::from(*self)).encode()
    }
}

impl Field for LocRound {
    fn type_name() -> String {
        LocRound::WORDS.join(" \\| ")
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<LocRound> {
        match node.as_str() {
            Some("half-even" | "nearest") => Some(LocRound::HalfEven),
            Some("half-up") => Some(LocRound::HalfUp),
            Some("floor") => Some(LocRound::Floor),
            _ => unknown_word(node, &LocRound::WORDS, decoder),
        }
    }

    fn encode(&self) -> Node {
        self.word().into()
    }
}

config_section! {
    /// How coordinates become location tokens.
    pub struct Loc {
        /// What the far edge of the picture is: 1023 as big_vision has it, or 1024 as most example scripts.
        pub scale: LocScale = LocScale::default();
        /// How a coordinate between two tokens goes to one of them.
        pub round: LocRound = LocRound::default();
        /// Whether coordinates outside of the tokens go to the first or last one; without it, boxes at the
        /// edge are written with `<loc1024>`, which is not a token.
        pub clamp: bool = true;
    }
}

impl Loc {
    pub fn options(&self) -> LocOptions {
        let Loc { scale, round, clamp } = *self;
        LocOptions { scale, round, clamp }
    }
}

/// Which classes a prompt names: `all`, `present`, or a list of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClassChoice {
    All,
    Present,
    Only(Vec<String>),
}

impl Field for ClassChoice {
    fn type_name() -> String {
        "all \\| present \\| list of string".into()
    }

    fn decode(node: &Node, decoder: &mut Decoder) -> Option<ClassChoice> {
        match (node.as_str(), &node.kind) {
            (Some("all"), _) => Some(ClassChoice::All),
            (Some("present"), _) => Some(ClassChoice::Present),
            (_, Kind::List(items)) if !items.is_empty() => Vec::decode(node, decoder).map(ClassChoice::Only),
            _ => decoder.expected(node, "all, present, or a list of classes"),
        }
    }

    fn encode(&self) -> Node {
        match self {
            ClassChoice::All => "all".into(),
            ClassChoice::Present => "present".into(),
            ClassChoice::Only(names) => names.encode(),
        }
    }
}

config_section! {
    /// How boxes become a prompt and an answer.
    pub struct Detect {
        /// The prompt; `{classes}` stands for the names of classes, joined by ` ; `.
        pub prefix: String = "detect {classes}".into();
        /// Classes that the prompt names: all of the set, those present in the picture, or a list; objects of
        /// classes that are not in the list are passed over.
        pub classes: ClassChoice = ClassChoice::All;
        /// Whether objects marked difficult (Pascal VOC) or crowd (COCO) are passed over.
        pub skip_difficult: bool = false;
        /// Whether boxes without any area inside the picture are passed over.
        pub drop_empty: bool = false;
        /// How coordinates become location tokens.
        pub loc: Loc = Loc::default();
    }
}

config_section! {
    /// Pictures with boxes as in COCO's instances JSON.
    pub struct Coco {
        /// The JSON file, or a folder that has one in it or in `annotations`.
        pub path: FilePath;
        /// Folder of the pictures; null looks beside the file and where COCO has them.
        pub images: Option<FilePath> = None;
        /// Prompt and answer.
        pub detect: Detect = Detect::default();
    }
}

config_section! {
    /// Pictures with boxes as YOLO's text files.
    pub struct Yolo {
        /// `data.yaml`, or the folder that has it.
        pub path: FilePath;
        /// A split of `data.yaml`.
        pub split: String = "train".into();
        /// Prompt and answer.
        pub detect: Detect = Detect::default();
    }
}

config_section! {
    /// Pictures with boxes as Pascal VOC's XML files.
    pub struct Voc {
        /// The folder with `Annotations`, `JPEGImages` and `ImageSets`.
        pub path: FilePath;
        /// A list in `ImageSets/Main`.
        pub split: String = "train".into();
        /// Whether corners count from 1 and include the last pixel, as in VOC's own files.
        pub one_based: bool = false;
        /// Prompt and answer.
        pub detect: Detect = Detect::default();
    }
}

config_section! {
    /// Rows as Roboflow exports them for PaliGemma, pictures beside them.
    pub struct Roboflow {
        /// The export's folder, or one of its `.jsonl` files.
        pub path: FilePath;
        /// The split, for a folder.
        pub split: String = "train".into();
    }
}

config_section! {
    /// Rows of a JSON-lines file whose picture is several: a folder of frames, or a list of files.
    pub struct Frames {
        /// The file, one JSON object per line.
        pub fname: FilePath;
        /// Key of the rows that names a folder of frames or lists files.
        pub key: String = "image".into();
        /// Folder that is put before those names.
        pub folder: FilePath = FilePath(Default::default());
        /// Key under which the encoded frames are given; `video_decode` reads `episodic_images`.
        pub outkey: String = "episodic_images".into();
        /// Frames that are taken at most; null takes all.
        pub num_frames: Option<usize> = None, POSITIVE;
        /// Every how many frames one is taken.
        pub stride: usize = 1, POSITIVE;
    }
}

super::default_sections!(Loc, Detect);
