//! Compares the bindings with the header that ships beside the CPU plugin, through the C compiler.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;

use pretty_assertions::assert_eq;

use super::ffi::{self, FUNCTION_LAYOUTS, FUNCTIONS, STRUCT_LAYOUTS};
use super::testing::cpu_plugin;

/// The header has a union without a name where the bindings have a field with one.
const UNIONS: [(&str, &str, &str); 2] =
    [("PJRT_NamedValue", "value", "string_value"), ("PJRT_Buffer_MemoryLayout", "layout", "tiled")];

#[test]
fn bindings_equal_the_header() {
    let header = cpu_plugin().path().with_file_name("include").join("pjrt_c_api.h");
    assert!(header.is_file(), "{} is missing from the CPU plugin's wheel", header.display());

    let mut ours = BTreeMap::new();
    let mut prints = String::new();
    let mut expect = |expression: String, value: usize| {
        writeln!(prints, r#"printf("%s %zu\n", "{expression}", (size_t)({expression}));"#).unwrap();
        ours.insert(expression, value);
    };
    for &(name, size, fields) in STRUCT_LAYOUTS.iter().chain(FUNCTION_LAYOUTS) {
        expect(format!("{name}_STRUCT_SIZE"), size);
        for &(field, offset, size) in fields {
            let field = field.trim_start_matches("r#");
            match UNIONS.iter().find(|union| (union.0, union.1) == (name, field)) {
                Some(union) => expect(format!("offsetof({name}, {})", union.2), offset),
                None => {
                    expect(format!("offsetof({name}, {field})"), offset);
                    expect(format!("sizeof((({name}*)0)->{field})"), size);
                }
            }
        }
    }
    let mut assignments = String::new();
    for &(function, args, offset) in FUNCTIONS {
        expect(format!("offsetof(PJRT_Api, {function})"), offset);
        // The compiler refuses this where the function takes another struct or returns something else.
        writeln!(assignments, "{{ PJRT_Error* (*f)({args}*) = api->{function}; (void)f; }}").unwrap();
    }
    for (name, value) in constants() {
        expect(name.to_owned(), value as usize);
    }
    let program = format!(
        "#include <stdio.h>\n#include \"{}\"\nvoid check(const PJRT_Api* api) {{\n{assignments}}}\n\
         int main(void) {{\n{prints}return 0;\n}}\n",
        header.display()
    );

    let output = run_c(&program);
    let theirs: BTreeMap<String, usize> = output
        .lines()
        .map(|line| line.rsplit_once(' ').expect("the probe prints an expression and a number"))
        .map(|(expression, value)| (expression.to_owned(), value.parse().unwrap()))
        .collect();
    assert!(theirs.len() > 400, "only {} facts were compared", theirs.len());
    assert_eq!(ours, theirs);
}

fn constants() -> Vec<(&'static str, i32)> {
    macro_rules! constants {
        ($($name:ident)*) => { vec![$((stringify!($name), ffi::$name)),*] };
    }
    let mut constants = constants! {
        PJRT_NamedValue_kString PJRT_NamedValue_kInt64 PJRT_NamedValue_kInt64List PJRT_NamedValue_kFloat
        PJRT_NamedValue_kBool PJRT_Buffer_Type_PRED PJRT_Buffer_Type_S8 PJRT_Buffer_Type_S32 PJRT_Buffer_Type_S64
        PJRT_Buffer_Type_U8 PJRT_Buffer_Type_U16 PJRT_Buffer_Type_U32 PJRT_Buffer_Type_U64 PJRT_Buffer_Type_F16 PJRT_Buffer_Type_F32
        PJRT_Buffer_Type_F64 PJRT_Buffer_Type_BF16 PJRT_HostBufferSemantics_kImmutableOnlyDuringCall
        PJRT_HostBufferSemantics_kImmutableUntilTransferCompletes PJRT_Buffer_MemoryLayout_Type_Tiled
    };
    constants.push(("PJRT_API_MAJOR", ffi::API_MAJOR));
    constants
}

/// Compiles and runs a C program and returns what it printed.
fn run_c(program: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (source, binary) = (folder.path().join("probe.c"), folder.path().join("probe"));
    std::fs::write(&source, program).unwrap();
    let compiled = Command::new("cc").arg("-Werror").arg(&source).arg("-o").arg(&binary).output();
    let compiled = compiled.expect("the test needs a C compiler: cc on PATH");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let output = Command::new(&binary).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}
