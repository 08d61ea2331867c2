use super::{Alias, EmitOptions, Error, Module, emit};
use crate::array::{DType, HostArray, Shape};
use crate::autodiff::gradient;
use crate::graph::{Builder, Function, RematPolicy, Result, ScanOptions};
use crate::runtime::testing::cpu_client;
use crate::runtime::{Arg, CompileOptions, Program};

/// A loop over layers with its gradient.
fn layers(length: usize, policy: RematPolicy) -> Function {
    let build = || -> Result<Function> {
        let b = Builder::new("layers");
        let x = b.parameter("x", Shape::new(DType::F32, [2, 3]))?;
        let w = b.parameter("w", Shape::new(DType::F32, [length, 3, 3]))?;
        let options = ScanOptions { policy, reverse: false };
        let init = std::slice::from_ref(&x);
        let (carries, outputs) = b.scan(length, init, std::slice::from_ref(&w), options, |b, c, w| {
            let _scope = b.scope("layer");
            let next = c[0].einsum("bi,ij->bj", &w[0])?.tanh()?;
            Ok((vec![next.clone()], vec![next.sum_all()?]))
        })?;
        let loss = carries[0].sum_all()?.add(&outputs[0].sum_all()?)?;
        let gradients = gradient(&loss, &[x, w])?;
        b.finish(&[&loss, &gradients[0], &gradients[1]])
    };
    build().unwrap()
}

fn plain(function: &Function) -> Module {
    emit(function, &EmitOptions::default()).unwrap()
}

/// 4 and 64 are numbers of one byte in every place, so that even the sizes in bytes are equal.
#[test]
fn a_program_does_not_grow_with_its_loops() {
    for policy in RematPolicy::ALL {
        let (short, long) = (plain(&layers(4, policy)), plain(&layers(64, policy)));
        assert_eq!(short.num_instructions(), long.num_instructions(), "{policy}");
        assert_eq!(short.to_bytes().len(), long.to_bytes().len(), "{policy}");
        assert_ne!(short.to_bytes(), long.to_bytes(), "{policy}");
    }
}

#[test]
fn the_same_function_gives_the_same_bytes() {
    let build = || layers(4, RematPolicy::DotsSaveable);
    let (first, second) = (build(), build());
    assert!(plain(&first).to_bytes() == plain(&first).to_bytes());
    assert!(plain(&first).to_bytes() == plain(&second).to_bytes());
    // What was built on the way and is not needed leaves no trace, in ids neither.
    let square = |with_waste: bool| -> Result<Vec<u8>> {
        let b = Builder::new("square");
        let x = b.parameter("x", Shape::new(DType::F32, [2]))?;
        if with_waste {
            x.sin()?.reduce_max(&[0])?;
        }
        Ok(plain(&b.finish(&[&x.square()?])?).to_bytes())
    };
    assert!(square(false).unwrap() == square(true).unwrap());
}

/// Without the places in this file, which move.
fn text(module: &Module) -> String {
    let place = regex::Regex::new(r" src/hlo/tests.rs:\d+\}").unwrap();
    place.replace_all(&module.to_string(), "}").into_owned()
}

#[test]
fn text_of_a_small_program() {
    let b = Builder::new("attend");
    let build = || -> Result<Function> {
        let q = b.parameter("q", Shape::new(DType::BF16, [2, 3]))?;
        let k = b.parameter("k", Shape::new(DType::BF16, [4, 3]))?;
        let _scope = b.scope("llm/attn");
        let logits = q.einsum("td,sd->ts", &k)?.convert(DType::F32)?;
        let shifted = logits.sub(&logits.reduce_max(&[1])?.expand_dim(1)?)?;
        let first = shifted.slice_in_dim(1, 0, 2)?.pad_in_dim(0, 1, 0, -1.0)?;
        let (values, _) = first.top_k(1)?;
        b.finish(&[&values, &q])
    };
    let options = EmitOptions { aliases: vec![Alias { parameter: 0, output: 1 }], ..Default::default() };
    let module = emit(&build().unwrap(), &options).unwrap();
    insta::assert_snapshot!(text(&module));
}

#[test]
fn text_of_a_loop() {
    let b = Builder::new("powers");
    let build = || -> Result<Function> {
        let x = b.parameter("x", Shape::new(DType::F32, []))?;
        let (carries, outputs) =
            b.scan(3, std::slice::from_ref(&x), &[], ScanOptions::default(), |_, c, _| {
                Ok((vec![c[0].mul(&x)?], vec![c[0].clone()]))
            })?;
        b.finish(&[&carries[0], &outputs[0]])
    };
    insta::assert_snapshot!(text(&plain(&build().unwrap())));
}

/// `(x + y, x * y)`, whose first result may live in `x`.
fn step() -> Function {
    let b = Builder::new("step");
    let build = || -> Result<Function> {
        let x = b.parameter("x", Shape::new(DType::F32, [1024]))?;
        let y = b.parameter("y", Shape::new(DType::F32, [1024]))?;
        b.finish(&[&x.add(&y)?, &x.mul(&y)?.sum_all()?])
    };
    build().unwrap()
}

fn aliased(aliases: &[Alias]) -> EmitOptions {
    EmitOptions { aliases: aliases.to_vec(), ..Default::default() }
}

#[test]
fn an_aliased_argument_is_gone_when_donated_and_stays_when_kept() {
    let module = emit(&step(), &aliased(&[Alias { parameter: 0, output: 0 }])).unwrap();
    let header = module.to_string();
    let header = header.lines().next().unwrap();
    assert_eq!(header, "HloModule step, input_output_alias={ {0}: (0, {}, must-alias) }");

    let client = cpu_client();
    let executable = client.compile(Program::hlo(&module.to_bytes()), &CompileOptions::default()).unwrap();
    assert_eq!(executable.compiled().memory_stats().unwrap().alias_bytes, 4096);
    let upload = |value: f32| {
        client.upload(&HostArray::new([1024], &[value; 1024]).unwrap(), &executable.devices()[0]).unwrap()
    };
    let one = upload(1.0);
    let args = [vec![Arg::Donate(upload(2.0)), Arg::Keep(&one)]];
    let first = executable.start(&args).unwrap().remove(0).remove(0);
    let Arg::Donate(donated) = &args[0][0] else { unreachable!("it was given away above") };
    assert!(donated.is_deleted().unwrap());
    assert!(!one.is_deleted().unwrap());

    let second = executable.execute(vec![Arg::Keep(&first), Arg::Keep(&one)]).unwrap();
    assert!(!first.is_deleted().unwrap());
    assert_eq!(first.download().unwrap().values::<f32>().unwrap()[7], 3.0);
    assert_eq!(second[0].download().unwrap().values::<f32>().unwrap()[7], 4.0);
}

#[test]
fn aliases_that_do_not_fit_are_told() {
    let fail = |aliases: &[Alias]| emit(&step(), &aliased(aliases)).unwrap_err();
    let error = fail(&[Alias { parameter: 1, output: 1 }]);
    assert_eq!(
        error.to_string(),
        "alias of parameter 1 and output 1 expects equal shapes, got f32[1024] and f32[]"
    );
    let error = fail(&[Alias { parameter: 5, output: 0 }]);
    assert_eq!(
        error.to_string(),
        "alias of parameter 5 and output 0 expects equal shapes, got none and f32[1024]"
    );
    let error = fail(&[Alias { parameter: 0, output: 0 }, Alias { parameter: 1, output: 0 }]);
    assert_eq!(error, Error::AliasTwice { parameter: 1, output: 0 });
    assert_eq!(error.to_string(), "parameter 1 or output 0 is aliased twice");
    let options = EmitOptions { parameter_shardings: vec![None], ..Default::default() };
    let error = emit(&step(), &options).unwrap_err();
    assert_eq!(error.to_string(), "parameters expects 2 shardings, got 1");
}

/// Every instruction of the model says which layer and line it is from, those of its gradient too.
#[test]
fn instructions_carry_the_place_they_come_from() {
    let module = plain(&layers(4, RematPolicy::NothingSaveable));
    let instructions = module.proto().computations.iter().flat_map(|c| &c.instructions);
    let dots: Vec<_> = instructions.filter(|i| i.opcode == "dot").collect();
    assert_eq!(dots.len(), 4, "one forwards, one again and two backwards");
    for dot in dots {
        let metadata = dot.metadata.as_ref().unwrap();
        assert_eq!(metadata.op_name, "layer/dot_general");
        assert!(metadata.source_file.ends_with("hlo/tests.rs") && metadata.source_line > 0);
    }
}
