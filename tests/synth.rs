//! Sizes, primitives, operators and their text.

use std::collections::BTreeSet;
use syntune::synth::library::{LIBRARY, resolve};
use syntune::synth::{Binding, Operator, Space, Synthesizer, Variables};

#[test]
fn every_library_operator_prints_and_parses_back() {
    for (name, _, _) in LIBRARY {
        let operator = resolve(name).unwrap();
        let line = operator.to_string();
        let again = Operator::parse(&line).unwrap();
        assert_eq!(line, again.to_string(), "{name}");
        assert_eq!(operator.id(), again.id(), "{name}");
    }
}

#[test]
fn ids_do_not_depend_on_names_or_order() {
    let a = Operator::parse("y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k, j:k] x[n, c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]").unwrap();
    let b = Operator::parse("y[a:N,b:Co,p:H,q:W]=sum[u:k,v:k,z:Ci] x[a,z,unfold(p,v),unfold(q,u)]*kernel[u,v,z,b]").unwrap();
    assert_eq!(a.to_string(), b.to_string());
    assert_eq!(a.id(), b.id());
    assert_ne!(a.id(), resolve("conv1x1").unwrap().id());
}

#[test]
fn ids_are_stable() {
    let lines: Vec<_> = LIBRARY
        .iter()
        .map(|(name, _, _)| {
            let o = resolve(name).unwrap();
            format!("{name} {} {o}", o.id())
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn formulas_read_like_the_literature() {
    let binding = Binding::of(&[("N", 1), ("Ci", 8), ("Co", 8), ("H", 10), ("W", 10), ("k", 3), ("g", 2), ("s", 2)]);
    let lines: Vec<_> = LIBRARY
        .iter()
        .map(|(name, _, _)| {
            let o = resolve(name).unwrap();
            format!("{name}: {}\n    {}", o.formula(None), o.formula(Some(&binding)))
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn a_bad_text_names_the_column_and_what_was_expected() {
    let cases = [
        "",
        "z[n:N] = x[n]",
        "y[n:N, o] = x[n]",
        "y[n:N] x[n]",
        "y[n:N] = sum[c:Ci] x[n, c, q]",
        "y[n:N, h:H] = x[n, fold(h, n)]",
        "y[n:N, h:H] = x[n, unfold(h)]",
        "y[n:N, h:H] = x[n, outer(h, 2]",
        "y[n:N, h:H] = x[n, h] w1[n]",
        "y[n:N, h:H] = x[n, h] * w1[n",
        "y[n:N, n:H] = x[n]",
        "y[n:N, h:H*] = x[n, h]",
        "y[n:N, h:0] = x[n, h]",
        "y[n:N, h:H] = x[n, h] * x[n]",
        "y[n:N, h:H] = sum[c:C] x[n, h]",
        "y[n:N, h:H] = sum[i:k] x[unfold(n, i), unfold(h, i)]",
        "y[n:N, h:k/H] = x[n, h]",
        "y[n:N, ü:H] = x[n, ü] §",
    ];
    let errors: Vec<_> = cases.iter().map(|c| format!("{}\n", Operator::parse(c).expect_err(c))).collect();
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn sizes_multiply_divide_compare_and_evaluate() {
    let v = Variables::new(["H", "k", "Ci", "g"].map(String::from)).unwrap();
    let (h, k, c, g) = (v.size("H").unwrap(), v.size("k").unwrap(), v.size("Ci").unwrap(), v.size("g").unwrap());
    assert_eq!(h.times(k).over(k), h);
    assert_eq!(c.times(k).times(k).over(g).print(&v), "Ci*k^2/g");
    assert!(g.is_coefficient(&v) && !c.over(g).is_coefficient(&v) && k.over(h).divides_by_primary(&v));
    assert_ne!(h.cmp(&c), std::cmp::Ordering::Equal);
    let binding = Binding::of(&[("H", 7), ("Ci", 6), ("k", 3), ("g", 4)]);
    assert_eq!(h.times(c).evaluate(&v, &binding).unwrap(), 42);
    let error = c.over(g).evaluate(&v, &binding).unwrap_err().to_string();
    assert!(error.contains("Ci/g") && error.contains("3/2") && error.contains("Ci=6"), "{error}");
}

pub fn slot_bindings() -> Vec<Binding> {
    let one = |ci, co, h| Binding::of(&[("N", 1), ("Ci", ci), ("Co", co), ("H", h), ("W", h), ("k", 3), ("g", 4), ("s", 2)]);
    vec![one(16, 16, 28), one(16, 32, 14), one(32, 32, 14), one(32, 64, 8)]
}

pub fn slot_space() -> Space {
    Space::of_conv(slot_bindings(), &["k", "g", "s"].map(String::from), 10, 2).unwrap()
}

#[test]
fn random_operators_are_sound_distinct_and_the_same_for_a_seed() {
    let some = |seed| {
        let mut synthesizer = Synthesizer::new(slot_space(), seed).unwrap();
        let found: Vec<_> = (0..200).map(|_| synthesizer.next().unwrap()).collect();
        found
    };
    let found = some(1);
    assert_eq!(found, some(1));
    assert_ne!(found, some(2));
    assert_eq!(found.iter().map(Operator::id).collect::<BTreeSet<_>>().len(), 200);
    for o in &found {
        assert_eq!(&Operator::parse(&o.to_string()).unwrap(), o);
        for b in slot_bindings() {
            o.check_binding(&b).unwrap();
            assert!(syntune::lower::lower(o, &b).unwrap().n_macs() > 0);
        }
    }
}

mod algebra {
    use proptest::prelude::*;
    use syntune::synth::{Binding, Size, Variables};

    fn variables() -> Variables {
        Variables::new(["Ci", "H", "g", "k"].map(String::from)).unwrap()
    }

    prop_compose! {
        fn size()(powers in prop::collection::vec(-3i32..4, 4), number in 1u32..50, divisor in 1u32..50) -> Size {
            let v = variables();
            let product = v.names().iter().zip(&powers).fold(Size::ONE, |s, (name, &p)| s.times(v.size(name).unwrap().power(p)));
            product.times(Size::number(number)).over(Size::number(divisor))
        }
    }

    proptest! {
        #[test]
        fn sizes_form_a_group_with_an_order(a in size(), b in size(), c in size()) {
            prop_assert_eq!(a.times(b), b.times(a));
            prop_assert_eq!(a.times(b).times(c), a.times(b.times(c)));
            prop_assert_eq!(a.times(b).over(b), a);
            prop_assert_eq!(a.over(a), Size::ONE);
            prop_assert_eq!(a == b, a.cmp(&b) == std::cmp::Ordering::Equal);
        }

        #[test]
        fn evaluation_respects_products(a in size(), b in size(), values in prop::collection::vec(1i64..7, 4)) {
            let (x, y, xy) = (a.fraction(&values).unwrap(), b.fraction(&values).unwrap(), a.times(b).fraction(&values).unwrap());
            prop_assert_eq!(i128::from(x.0) * i128::from(y.0) * i128::from(xy.1), i128::from(x.1) * i128::from(y.1) * i128::from(xy.0));
        }

        #[test]
        fn sizes_print_as_operators_read_them(a in size()) {
            let v = variables();
            let shown = a.print(&v);
            let operator = syntune::synth::Operator::parse_ordered(&format!("y[n:Ci*H*g*k, h:{shown}] = x[n, h]"));
            match operator {
                Ok(operator) => prop_assert_eq!(operator.output_shape()[1].print(operator.variables()), shown),
                Err(error) => prop_assert!(error.to_string().contains("divides by a primary variable"), "{}", error),
            }
        }

        #[test]
        fn any_text_is_read_or_refused_and_never_a_panic(text in "\\PC{0,60}", shape in "\\PC{0,20}") {
            let _ = syntune::synth::Operator::parse(&text);
            let _ = syntune::synth::Operator::parse(&format!("y[n:N] = x[{text}]"));
            let _ = Binding::parse(&shape);
        }
    }
}
