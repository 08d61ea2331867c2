use std::path::{Path, PathBuf};

use roxmltree::{Document, Node};

use super::{
    Annotated, Annotations, Error, ImageFile, Object, image_extent, out_of_range, read_text, stated_extent,
};

/// How a Pascal VOC set is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VocOptions {
    /// Corners count from 1 and the last pixel belongs to the box, as in VOC's own files; most tools that write
    /// VOC count from 0 and mean edges.
    pub one_based: bool,
}

/// Pascal VOC: `Annotations/*.xml`, `JPEGImages` and lists of names in `ImageSets/Main`.
///
/// All annotations of the split are read when it is opened, so that damage shows at once and the classes are
/// known: those that occur, in the order of their names.
#[derive(Debug)]
pub struct Voc {
    root: PathBuf,
    split: String,
    images: Vec<Image>,
    classes: Vec<String>,
}

#[derive(Debug)]
struct Image {
    xml: PathBuf,
    path: PathBuf,
    extent: Option<[f64; 2]>,
    objects: Vec<Object>,
}

impl Voc {
    /// `split` is a file of `ImageSets/Main` without its ending; sets without lists have one split, whatever
    /// it is called.
    ///
    /// # Errors
    /// When the list or an annotation cannot be read, with its line.
    pub fn open(root: impl Into<PathBuf>, split: &str, options: VocOptions) -> Result<Self, Error> {
        let root = root.into();
        let annotations = root.join("Annotations");
        if !annotations.is_dir() {
            let problem = "there is no folder Annotations in it, as Pascal VOC has".to_owned();
            return Err(Error::BadFile { path: root, problem });
        }
        let files = match list_of(&root, split)? {
            Some(names) => names.iter().map(|name| annotations.join(format!("{name}.xml"))).collect(),
            None => {
                let mut files = super::list(&annotations)?;
                files
                    .retain(|file| file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("xml")));
                files
            }
        };
        let images = files.into_iter().map(|xml| read_annotation(&root, xml, options));
        let images = images.collect::<Result<Vec<_>, _>>()?;
        let mut classes: Vec<String> =
            images.iter().flat_map(|image| image.objects.iter().map(|object| object.label.clone())).collect();
        classes.sort();
        classes.dedup();
        Ok(Voc { root, split: split.to_owned(), images, classes })
    }
}

impl Annotations for Voc {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn annotated(&self, index: usize) -> Result<Annotated, Error> {
        let image = self.images.get(index).ok_or_else(|| out_of_range(self, index))?;
        let extent = match image.extent {
            Some(extent) => extent,
            None => image_extent(&image.path, || self.locate(index))?,
        };
        Ok(Annotated {
            id: self.name(index),
            extent,
            objects: image.objects.clone(),
            ..Annotated::new(ImageFile::Path(image.path.clone()))
        })
    }

    fn name(&self, index: usize) -> String {
        self.images.get(index).map_or_else(String::new, |image| super::file_name(&image.path).into_owned())
    }

    fn describe(&self) -> String {
        let (images, classes) = (self.images.len(), self.classes.len());
        format!("voc {} {} ({images} images, {classes} classes)", self.root.display(), self.split)
    }

    fn locate(&self, index: usize) -> String {
        self.images.get(index).map_or(&self.root, |image| &image.xml).display().to_string()
    }
}

/// Names of a split; `None` when the set has no lists at all.
fn list_of(root: &Path, split: &str) -> Result<Option<Vec<String>>, Error> {
    let folder = root.join("ImageSets").join("Main");
    if !folder.is_dir() {
        return Ok(None);
    }
    let file = folder.join(format!("{split}.txt"));
    if !file.is_file() {
        let lists = super::list(&folder)?;
        let stems = lists.iter().filter_map(|file| Some(file.file_stem()?.to_string_lossy().into_owned()));
        // Lists of single classes (`cat_train`) are not splits.
        let stems: Vec<String> = stems.filter(|stem| !stem.contains('_')).collect();
        let problem = format!("there is no split {split}, only {}", stems.join(", "));
        return Err(Error::BadFile { path: folder, problem });
    }
    let text = read_text(&file)?;
    // Lists of one class have a second column, -1 where the class is absent.
    let names = text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned);
    Ok(Some(names.collect()))
}

fn read_annotation(root: &Path, xml: PathBuf, options: VocOptions) -> Result<Image, Error> {
    let text = read_text(&xml)?;
    let document = Document::parse(&text).map_err(|error| {
        let told = error.to_string();
        // The place is told already, with the file.
        let told = told.rsplit_once(" at ").map_or(told.as_str(), |(told, _)| told);
        let problem = format!("not XML: {told} (column {})", error.pos().col);
        Error::BadLine { path: xml.clone(), line: error.pos().row.into(), problem }
    })?;
    let annotation = document.root_element();
    let mut objects = Vec::new();
    for object in annotation.children().filter(|node| node.has_tag_name("object")) {
        let name = child(&xml, object, "name")?;
        let label = name.text().unwrap_or_default().trim().to_owned();
        if label.is_empty() {
            return Err(bad(&xml, name, "<name> is empty"));
        }
        let corners = child(&xml, object, "bndbox")?;
        let corner = |name: &str| number(&xml, child(&xml, corners, name)?);
        // The last pixel, counted from 1, ends where the next one, counted from 0, begins.
        let offset = if options.one_based { 1.0 } else { 0.0 };
        let corners = [corner("ymin")? - offset, corner("xmin")? - offset, corner("ymax")?, corner("xmax")?];
        let difficult = object.children().find(|node| node.has_tag_name("difficult"));
        let is_difficult = difficult.and_then(|node| node.text()).is_some_and(|text| text.trim() == "1");
        objects.push(Object { corners, label, is_difficult });
    }
    let size = annotation.children().find(|node| node.has_tag_name("size"));
    let side = |name: &str| size.and_then(|size| number(&xml, child(&xml, size, name).ok()?).ok());
    let extent = stated_extent(side("height"), side("width"));
    let file = annotation.children().find(|node| node.has_tag_name("filename"));
    let path = image_of(root, &xml, file.and_then(|node| node.text()).unwrap_or_default().trim());
    Ok(Image { path, extent, objects, xml: xml.clone() })
}

/// The element `name` in another.
fn child<'a, 'input>(xml: &Path, node: Node<'a, 'input>, name: &str) -> Result<Node<'a, 'input>, Error> {
    let found = node.children().find(|child| child.has_tag_name(name));
    found.ok_or_else(|| bad(xml, node, &format!("<{}> has no <{name}>", node.tag_name().name())))
}

fn number(xml: &Path, node: Node) -> Result<f64, Error> {
    let text = node.text().unwrap_or_default().trim();
    let value = text.parse().ok().filter(|value: &f64| value.is_finite());
    value.ok_or_else(|| {
        bad(xml, node, &format!("<{}> should be a number, got \"{text}\"", node.tag_name().name()))
    })
}

fn bad(xml: &Path, node: Node, problem: &str) -> Error {
    let line = node.document().text_pos_at(node.range().start).row.into();
    Error::BadLine { path: xml.to_owned(), line, problem: problem.to_owned() }
}

/// The picture that an annotation names; failing that, the one of the annotation's own name.
fn image_of(root: &Path, xml: &Path, name: &str) -> PathBuf {
    let folder = root.join("JPEGImages");
    let named = folder.join(name);
    if !name.is_empty() && named.is_file() {
        return named;
    }
    let stem = folder.join(xml.file_stem().unwrap_or_default());
    let endings = super::EXTENSIONS.iter().map(|ending| stem.with_added_extension(ending));
    let found = endings.into_iter().find(|path| path.is_file());
    found.unwrap_or(if name.is_empty() { stem.with_added_extension("jpg") } else { named })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pretty_assertions::assert_eq;

    use super::*;

    const XML: &str = "<annotation>\n<filename>a.jpg</filename>\n<size><width>64</width><height>48</height></size>\n\
        <object><name>cat</name><difficult>1</difficult>\n\
        <bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30.5</xmax><ymax>40</ymax></bndbox></object>\n</annotation>";

    fn open(xml: &str, options: VocOptions) -> Result<Voc, String> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("Annotations")).unwrap();
        fs::write(dir.path().join("Annotations/a.xml"), xml).unwrap();
        let folder = format!("{}/", dir.path().display());
        Voc::open(dir.path(), "train", options).map_err(|error| error.to_string().replace(&folder, ""))
    }

    #[test]
    fn corners_count_from_zero_or_from_one() {
        let corners = |one_based| {
            let set = open(XML, VocOptions { one_based }).unwrap();
            let annotated = set.annotated(0).unwrap();
            assert_eq!((annotated.extent, annotated.objects[0].is_difficult), ([48.0, 64.0], true));
            annotated.objects[0].corners
        };
        assert_eq!(corners(false), [2.0, 1.0, 40.0, 30.5]);
        assert_eq!(corners(true), [1.0, 0.0, 40.0, 30.5]);
    }

    #[test]
    fn damage_is_shown_with_its_line() {
        for (from, to, message) in [
            (
                "</object>",
                "",
                "Annotations/a.xml:6: not XML: expected 'object' tag, not 'annotation' (column 1)",
            ),
            ("<xmin>1</xmin>", "", "Annotations/a.xml:5: <bndbox> has no <xmin>"),
            ("40</ymax>", "4o</ymax>", "Annotations/a.xml:5: <ymax> should be a number, got \"4o\""),
            ("<name>cat</name>", "", "Annotations/a.xml:4: <object> has no <name>"),
            ("cat", " ", "Annotations/a.xml:4: <name> is empty"),
        ] {
            assert_eq!(open(&XML.replace(from, to), VocOptions::default()).unwrap_err(), message);
        }
    }

    #[test]
    fn splits_are_lists_of_names() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let open = |split: &str| {
            let opened = Voc::open(root, split, VocOptions::default());
            opened
                .map(|set| set.len())
                .map_err(|error| error.to_string().replace(&format!("{}/", root.display()), ""))
        };
        assert!(
            open("train").unwrap_err().ends_with("there is no folder Annotations in it, as Pascal VOC has")
        );
        fs::create_dir_all(root.join("Annotations")).unwrap();
        fs::create_dir_all(root.join("ImageSets/Main")).unwrap();
        fs::write(root.join("Annotations/a.xml"), XML).unwrap();
        fs::write(root.join("ImageSets/Main/cat_val.txt"), "a 1\n").unwrap();
        fs::write(root.join("ImageSets/Main/val.txt"), "a\n\n").unwrap();
        assert_eq!(open("val"), Ok(1));
        assert_eq!(open("cat_val"), Ok(1));
        assert_eq!(open("train").unwrap_err(), "ImageSets/Main: there is no split train, only val");
        fs::write(root.join("ImageSets/Main/val.txt"), "b\n").unwrap();
        assert_eq!(open("val").unwrap_err(), "cannot read Annotations/b.xml");
    }
}
