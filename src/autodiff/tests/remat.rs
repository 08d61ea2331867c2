//! Policies keep the memory that they promise, as the compiler counts it.

use super::{function, gradient};
use crate::array::{DType, HostArray, Shape};
use crate::exec;
use crate::graph::{Function, RematPolicy, Result, ScanOptions, Value};
use crate::hlo::{self, EmitOptions};
use crate::runtime::CompileOptions;
use crate::runtime::testing::cpu_client;

const LAYERS: usize = 12;
const TOKENS: usize = 256;
const WIDTH: usize = 32;
const HIDDEN: usize = 128;
const HEADS: usize = 4;

/// One layer like a transformer's: attention, whose scores are the largest of all, and a gated MLP.
fn layer(x: &Value, params: &[Value]) -> Result<Value> {
    let [qkv, out, gate, up, down] = params else { panic!("five parameters") };
    let heads = |part: usize| x.einsum("td,dnh->tnh", &qkv.index_in_dim(0, part)?);
    let (q, k, v) = (heads(0)?, heads(1)?, heads(2)?);
    let scores = q.einsum("tnh,snh->nts", &k)?.tanh()?.exp()?;
    let weights = scores.div(&scores.reduce_sum(&[2])?.expand_dim(2)?)?;
    let x = x.add(&weights.einsum("nts,snh->tnh", &v)?.einsum("tnh,nhd->td", out)?)?;
    let hidden = x.einsum("td,dm->tm", gate)?.logistic()?.mul(&x.einsum("td,dm->tm", up)?)?;
    x.add(&hidden.tanh()?.einsum("tm,md->td", down)?)
}

fn tower(policy: RematPolicy) -> Function {
    let shapes: [&[usize]; 6] = [
        &[TOKENS, WIDTH],
        &[LAYERS, 3, WIDTH, HEADS, WIDTH / HEADS],
        &[LAYERS, HEADS, WIDTH / HEADS, WIDTH],
        &[LAYERS, WIDTH, HIDDEN],
        &[LAYERS, WIDTH, HIDDEN],
        &[LAYERS, HIDDEN, WIDTH],
    ];
    let inputs = shapes.map(|dims| HostArray::zeros(Shape::new(DType::F32, dims)));
    function(&inputs, |b, x| {
        let options = ScanOptions { policy, reverse: false };
        let (carries, _) = b.scan(LAYERS, &x[..1], &x[1..], options, |_, carries, params| {
            Ok((vec![layer(&carries[0], params)?], vec![]))
        })?;
        gradient(&carries[0].square()?.sum_all()?, x)
    })
    .unwrap()
}

fn temp_bytes(policy: RematPolicy) -> usize {
    let executable =
        exec::compile(&cpu_client(), &tower(policy), &EmitOptions::default(), &CompileOptions::default());
    executable.unwrap().compiled().memory_stats().unwrap().temp_bytes as usize
}

/// With 12 layers the temporaries are 4.8 MB for `nothing_saveable`, 9.6 for
/// `dots_with_no_batch_dims_saveable`, 22.5 for `dots_saveable` and 47.3 for `everything_saveable`.
#[test]
fn memory_grows_with_what_a_policy_keeps() {
    let carry = TOKENS * WIDTH * 4;
    let hidden = TOKENS * HIDDEN * 4;
    let scores = HEADS * TOKENS * TOKENS * 4;
    let [nothing, dots, no_batch, everything] = RematPolicy::ALL.map(temp_bytes);

    // Only the carries are kept for every layer; all else is there once.
    assert!(nothing < LAYERS * carry + 12 * scores, "{nothing}");
    assert!(nothing < no_batch && no_batch < dots && dots < everything);
    // What a policy adds is kept by each layer.
    let grows = |to: usize, from: usize, per_layer: usize| (to - from) as f64 / (LAYERS * per_layer) as f64;
    let added = [
        // Queries, keys, values, attention's result and the two products into the MLP. The one out of it is
        // only added: no gradient asks for it.
        grows(no_batch, nothing, 4 * carry + 2 * hidden),
        // The scores, and what attention reads from them.
        grows(dots, no_batch, scores + carry),
        // At least the scores' exponential and the weights.
        grows(everything, dots, 2 * scores),
    ];
    assert!(added[..2].iter().all(|part| (0.9..1.1).contains(part)), "{added:?}");
    assert!(added[2] > 0.9, "{added:?}");
}

/// Without the barrier a compiler is free to use the first computation in place of the second.
#[test]
fn what_is_computed_again_is_behind_a_barrier() {
    for policy in RematPolicy::ALL {
        let module = hlo::emit(&tower(policy), &EmitOptions::default()).unwrap();
        let of_opcode = |opcode: &str| -> Vec<(&str, i64)> {
            let computations = module.proto().computations.iter();
            let all = computations.flat_map(|c| c.instructions.iter().map(move |i| (c.name.as_str(), i)));
            all.filter(|(_, i)| i.opcode == opcode).map(|(name, i)| (name, i.id)).collect()
        };
        let mut barriers = of_opcode("opt-barrier");
        // Outside of the loops are those before which no stacked output is filled.
        barriers.retain(|(computation, _)| computation.starts_with("scan_body"));
        // Forward: nine products. Backward: eighteen, and those of the forward pass that were not kept. The
        // last product of a layer is not computed again: nothing asks for it.
        let again = match policy {
            RematPolicy::NothingSaveable => 8,
            RematPolicy::DotsSaveable | RematPolicy::EverythingSaveable => 0,
            RematPolicy::DotsWithNoBatchDimsSaveable => 2,
        };
        assert_eq!(of_opcode("dot").len(), 9 + 18 + again, "{policy}");
        if policy == RematPolicy::EverythingSaveable {
            assert!(barriers.is_empty());
            continue;
        }
        // One, on the carry, in the body of the backward loop; every use of the carry there is behind it.
        assert_eq!(barriers.len(), 1, "{policy}");
        let body = module.proto().computations.iter().find(|c| c.name == barriers[0].0).unwrap();
        let barrier = body.instructions.iter().find(|i| i.id == barriers[0].1).unwrap();
        let uses = |id: i64| body.instructions.iter().filter(move |i| i.operand_ids.contains(&id));
        let tuple = body.instructions.iter().find(|i| i.id == barrier.operand_ids[0]).unwrap();
        assert_eq!(uses(tuple.operand_ids[0]).count(), 1, "{policy}");
    }
}
