//! The training steps of the published 3B models as programs: nothing is compiled and no weight exists.

use std::collections::{BTreeSet, HashSet};

use paligemma::array::{DType, Shape};
use paligemma::graph::{Builder, Function, Op, Output, RematPolicy, ScanSpec};
use paligemma::hlo::proto::HloInstructionProto;
use paligemma::hlo::{self, EmitOptions, Module};
use paligemma::model::Examples;
use paligemma::nn::Params;
use paligemma::train::TrainStep;

#[path = "support/recipe.rs"]
#[allow(dead_code, reason = "shared by tests, benchmarks and an example, of which none needs all")]
mod recipe;
use recipe::{Recipe, published};

/// PaliGemma 3B and PaliGemma 2 3B.
const MODELS: [&str; 2] = ["gemma_2b", "gemma2_2b"];

fn full_adam(llm: &str) -> Recipe {
    Recipe::full_adam(published(llm), 8, 128)
}

fn emit(step: &TrainStep) -> Module {
    hlo::emit(&step.function, &step.emit_options()).unwrap()
}

fn instructions(module: &Module) -> impl Iterator<Item = &HloInstructionProto> {
    module.proto().computations.iter().flat_map(|computation| &computation.instructions)
}

/// Matrix products of a scope.
fn dots(module: &Module, scope: &str) -> usize {
    let is_in_scope = |instruction: &&HloInstructionProto| {
        instruction.metadata.as_ref().is_some_and(|metadata| metadata.op_name.starts_with(scope))
    };
    instructions(module).filter(|instruction| instruction.opcode == "dot").filter(is_in_scope).count()
}

#[test]
fn the_program_does_not_grow_with_depth() {
    for llm in MODELS {
        let deep = full_adam(llm);
        let mut shallow = deep.clone();
        shallow.model.llm.depth /= 2;
        shallow.model.img.depth /= 2;
        let [deep, shallow] = [deep, shallow].map(|recipe| emit(&recipe.build()));
        let opcodes = |module| instructions(module).map(|i| i.opcode.clone()).collect::<Vec<_>>();
        assert_eq!(opcodes(&deep), opcodes(&shallow), "{llm}");
        // The numbers that differ are small ones, which take as many bytes.
        assert_eq!(deep.to_bytes().len(), shallow.to_bytes().len(), "{llm}");
        assert_ne!(deep.to_bytes(), shallow.to_bytes(), "{llm}");
    }
}

#[test]
fn every_trained_parameter_has_a_gradient_that_depends_on_the_loss() {
    for llm in MODELS {
        for policy in RematPolicy::ALL {
            // Clipping would make every update depend on every gradient.
            let mut recipe = Recipe { grad_clip_norm: None, ..full_adam(llm) };
            recipe.model.llm.remat_policy = policy;
            recipe.model.img.remat_policy = policy;
            let step = recipe.build();
            let names: Vec<&str> = step.function.parameter_names().collect();
            let mask_loss = names.iter().position(|name| *name == "mask_loss").unwrap();
            assert_eq!(step.num_frozen, 0);
            for (place, name) in names.iter().enumerate().take(step.num_trained) {
                // Outputs are parameters, count, first moments, second moments.
                let first_moment = step.function.outputs()[step.num_trained + 1 + place];
                let sources = sources(&step.function, [first_moment]);
                assert!(sources.contains(&mask_loss), "{llm}, {policy}: {name} is trained by nothing");
            }
        }
    }
}

#[test]
fn a_frozen_vision_tower_has_no_backward_pass() {
    let all = full_adam("gemma2_2b");
    let frozen = Recipe { trained: "llm/.*", ..all.clone() };
    let (step, forward) = (frozen.build(), forward(&frozen));
    assert!(step.num_frozen > 0);
    let (all, frozen) = (emit(&all.build()), emit(&step));
    assert!(frozen.num_instructions() < all.num_instructions());
    assert_eq!(dots(&frozen, "img/"), dots(&forward, "img/"));
    // A product has two in its backward pass and, but for the first and the last layer, is computed again.
    assert!(dots(&all, "img/") > 3 * dots(&frozen, "img/"));
    assert!(dots(&frozen, "llm/") > 3 * dots(&forward, "llm/"));
}

#[test]
fn no_stack_of_frozen_weights_is_copied() {
    for policy in RematPolicy::ALL {
        let mut recipe = Recipe::notebook(published("gemma2_2b"), 8, 128);
        recipe.model.llm.remat_policy = policy;
        recipe.model.img.remat_policy = policy;
        let step = recipe.build();
        let mlp = Shape::new(DType::F32, [26, 2304, 9216]).num_elements();
        let wide = |shape: &Shape| shape.dtype() == DType::F32 && shape.num_elements() >= mlp;
        let scans = step.function.nodes().iter().filter(|node| matches!(node.op, Op::Scan(_)));
        let copies: Vec<&Shape> = scans.flat_map(|node| &node.shapes).filter(|shape| wide(shape)).collect();
        // What is saved has a token dimension.
        let is_activation =
            |shape: &&&Shape| shape.dims().iter().any(|&extent| [383, 8 * 383].contains(&extent));
        assert_eq!(copies.iter().filter(|shape| !is_activation(shape)).count(), 0, "{policy}: {copies:?}");
    }
}

#[test]
fn loops_carry_what_is_small_not_what_it_is_repeated_to() {
    let step = full_adam("gemma2_2b").build();
    let constants = step.function.nodes().iter().filter_map(|node| match &node.op {
        Op::Scan(spec) => Some(node.inputs[..spec.num_consts].iter()),
        _ => None,
    });
    let shapes: Vec<String> =
        constants.flatten().map(|&input| step.function.shape(input).to_string()).collect();
    assert!(shapes.iter().any(|shape| shape == "pred[8,1,1,383,383]"), "{shapes:?}");
    assert!(shapes.iter().any(|shape| shape == "f32[8,383,1,128]"), "{shapes:?}");
    assert!(!shapes.iter().any(|shape| shape.starts_with("pred[8,4")), "{shapes:?}");
    assert!(!shapes.iter().any(|shape| shape.starts_with("f32[8,383,8")), "{shapes:?}");
}

#[test]
fn stacked_outputs_are_not_filled_before_their_loop() {
    let module = emit(&full_adam("gemma2_2b").build());
    let of_loops = |instruction: &&HloInstructionProto| {
        let metadata = instruction.metadata.as_ref();
        instruction.opcode == "broadcast" && metadata.is_some_and(|m| m.op_name.ends_with("/scan"))
    };
    let fills: Vec<_> = instructions(&module).filter(of_loops).collect();
    // At least the gradients of 12 stacks of the vision tower and of 9 of the decoder.
    assert!(fills.len() > 21);
    for fill in fills {
        let zero = instructions(&module).find(|i| i.id == fill.operand_ids[0]).unwrap();
        let barrier = instructions(&module).find(|i| zero.operand_ids.contains(&i.id)).unwrap();
        assert_eq!(barrier.opcode, "opt-barrier", "{}", fill.name);
    }
}

/// The loss alone.
fn forward(recipe: &Recipe) -> Module {
    let b = Builder::new("loss");
    let specs = recipe.model.params().unwrap();
    let params: Vec<_> = specs
        .iter()
        .map(|spec| (spec.name.clone(), b.parameter(&spec.name, spec.shape.clone()).unwrap()))
        .collect();
    let [height, width] = recipe.model.image_size;
    let image = Shape::new(DType::F32, [recipe.batch.batch_size, height, width, 3]);
    let image = b.parameter("image", image).unwrap();
    let tokens = Shape::new(DType::S32, [recipe.batch.batch_size, recipe.batch.text_len]);
    let [text, mask_ar, mask_loss] =
        ["text", "mask_ar", "mask_loss"].map(|name| b.parameter(name, tokens.clone()).unwrap());
    let params = Params::new(&b, params);
    let examples = Examples { image: &image, text: &text, mask_ar: &mask_ar, mask_loss: &mask_loss };
    let loss = recipe.model.loss(&params, &examples, None, &recipe.loss).unwrap();
    hlo::emit(&b.finish(&[&loss.loss]).unwrap(), &EmitOptions::default()).unwrap()
}

/// The places of the parameters that outputs are computed from, which for a loop means: through its body.
fn sources(function: &Function, outputs: impl IntoIterator<Item = Output>) -> BTreeSet<usize> {
    let mut pending: Vec<Output> = outputs.into_iter().collect();
    let mut seen: HashSet<Output> = pending.iter().copied().collect();
    let mut places = BTreeSet::new();
    while let Some(output) = pending.pop() {
        let node = function.node(output.node);
        if let Some(place) = function.parameters().iter().position(|&id| id == output.node) {
            places.insert(place);
        }
        let inputs: Vec<Output> = match &node.op {
            Op::Scan(spec) => {
                of_loop(spec, output.index).into_iter().map(|place| node.inputs[place]).collect()
            }
            _ => node.inputs.clone(),
        };
        pending.extend(inputs.into_iter().filter(|&input| seen.insert(input)));
    }
    places
}

/// The operands that one result of a loop is computed from.
fn of_loop(spec: &ScanSpec, result: usize) -> BTreeSet<usize> {
    let mut results = BTreeSet::from([result]);
    loop {
        let outputs = results.iter().map(|&result| spec.body.outputs()[result]);
        let places = sources(&spec.body, outputs);
        let carries = spec.num_consts..spec.num_consts + spec.num_carries;
        let before = results.len();
        results.extend(
            places.iter().filter(|place| carries.contains(place)).map(|place| place - spec.num_consts),
        );
        if results.len() == before {
            return places;
        }
    }
}
