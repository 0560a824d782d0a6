//! Syno's operators as oracles: those it ships and those built by hand, with their checksums, parameters and multiply-adds,
//! and what its own tests assert of lowering (Syno, its published artifact and its tests).

use syntune::lower::{self, LoopNest, Role};
use syntune::synth::{Binding, Operator, Prim};

/// Sum, sum of squares, weighted sum, first and last element of an output.
pub type Checksums = (i64, i64, i64, i64, i64);

/// The checksums of a nest on the integer data that the reference tables use (tensor t, flat index i):
/// `((i·(2t+3) + 7t + 1) mod 11) − 5`.
pub fn checksums(nest: &LoopNest) -> Checksums {
    let fill = |t: usize, n: usize| (0..n).map(|i| ((i * (2 * t + 3) + 7 * t + 1) % 11) as f32 - 5.0).collect::<Vec<f32>>();
    let given = nest.tensors.iter().filter(|t| matches!(t.role, Role::Input | Role::Weight));
    let data: Vec<_> = given.enumerate().map(|(i, t)| fill(i, t.n_elements())).collect();
    let slices: Vec<&[f32]> = data.iter().map(|d| d.as_slice()).collect();
    let out: Vec<i64> = lower::interp(nest, &slices).unwrap().iter().map(|&v| v as i64).collect();
    let s1 = out.iter().sum();
    let s2 = out.iter().map(|v| v * v).sum();
    let s3 = out.iter().enumerate().map(|(i, v)| (i as i64 % 97 + 1) * v).sum();
    (s1, s2, s3, out[0], out[out.len() - 1])
}

pub fn set_a() -> Binding {
    Binding::of(&[
        ("N", 2),
        ("Ci", 8),
        ("Co", 8),
        ("C", 8),
        ("H", 10),
        ("W", 10),
        ("g", 2),
        ("k", 3),
        ("k2", 5),
        ("s", 2),
        ("L", 5),
        ("Hin", 6),
        ("t", 3),
    ])
}

/// What Syno searched replacements for: the models whose layers the shipped operators were found on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    ResNet,
    ResNeXt,
    DenseNet,
    EfficientNet,
    Gpt,
}

impl Family {
    /// The constants of one layer at batch 1, at which multiply-adds and parameters are listed.
    pub fn layer(self) -> Binding {
        let image = |ci, co| Binding::of(&[("N", 1), ("Ci", ci), ("Co", co), ("H", 28), ("g", 32), ("k", 3), ("k2", 7), ("s", 2)]);
        match self {
            Family::ResNet => image(128, 128),
            Family::ResNeXt => image(256, 256),
            Family::DenseNet => image(128, 32),
            Family::EfficientNet => image(48, 192),
            Family::Gpt => Binding::of(&[("N", 1), ("L", 2048), ("Hin", 768), ("k1", 2), ("t", 3)]),
        }
    }

    /// The small constants of the checksums: A, B (A with g = 4) or G.
    pub fn small(self) -> Binding {
        match self {
            Family::DenseNet => set_a().with("g", 4),
            Family::Gpt => Binding::of(&[("N", 1), ("L", 3), ("Hin", 96), ("k1", 2), ("k2", 5), ("t", 3), ("g", 32)]),
            _ => set_a(),
        }
    }
}

/// One of the 34 operators that Syno ships: its weights' axes stand in the listed order, for [`Operator::parse_ordered`].
#[derive(Debug)]
pub struct Shipped {
    pub family: Family,
    /// Accuracy·10⁴ and path hash, as shipped.
    pub name: &'static str,
    /// Its actions from the output on: R Reduce, H Shift, S Split, U Unfold, M Merge, C Contraction.
    pub ops: &'static str,
    pub text: &'static str,
    /// Syno's multiply-adds of one layer, staged; views count one per element.
    pub n_macs: u64,
    pub n_params: u64,
    pub check: Checksums,
}

pub const SHIPPED: &[Shipped] = &[
    Shipped {
        family: Family::ResNet,
        name: "07720_1733478246404418686",
        ops: "RRRSHHMCU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k,r:s] x[n,c,shift(w),unfold(outer(shift(split(h,r)),s),a)] * w1[c,a,inner(shift(split(h,r)),s),o]",
        n_macs: 77_170_688,
        n_params: 98_304,
        check: (-33, 4781131, 13287, 24, -14),
    },
    Shipped {
        family: Family::ResNet,
        name: "07747_144206322981797626",
        ops: "RRRSHMHCCU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k,r:s] x[n,c,shift(outer(shift(split(h,r)),s)),unfold(w,a)] * u[o,inner(shift(split(h,r)),s)] * v[c,a,o]",
        n_macs: 38_735_872,
        n_params: 49_408,
        check: (1065, 166671751, 29110, 330, 351),
    },
    Shipped {
        family: Family::ResNet,
        name: "07750_7634515564952927984",
        ops: "RRRCSUHHMS",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci/s,a:k,r:s] x[n,split(inner(shift(split(h,r)),s),c),outer(shift(split(h,r)),s),shift(unfold(w,a))] * w1[r,c,a,o]",
        n_macs: 38_535_168,
        n_params: 49_152,
        check: (-225, 2558855, -38468, 13, -24),
    },
    Shipped {
        family: Family::ResNet,
        name: "07754_18091915762600937904",
        ops: "RRRRRCUHSCU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[G:g,c:Ci/g,a:k,b:k,r:Co/g/s] x[n,split(G,c),shift(unfold(h,a)),unfold(w,b)] * u[o,G,a,r] * v[split(G,c),b,r]",
        n_macs: 19_869_696,
        n_params: 25_344,
        check: (-537, 133779099, -122125, 197, 178),
    },
    Shipped {
        family: Family::ResNet,
        name: "07773_16533411379255875745",
        ops: "RRRRSHMCSUHU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci/s,a:k,b:k,r:s] x[n,split(inner(shift(split(w,r)),s),c),unfold(h,a),shift(unfold(outer(shift(split(w,r)),s),b))] * w1[c,a,b,o]",
        n_macs: 58_103_808,
        n_params: 73_728,
        check: (2, 6134044, -16789, -3, 28),
    },
    Shipped {
        family: Family::ResNet,
        name: "07795_7783544957109366863",
        ops: "RRRHSHMCCU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k,r:s] x[n,c,shift(w),unfold(outer(shift(split(h,r)),s),a)] * u[o,inner(shift(split(h,r)),s)] * v[c,a,o]",
        n_macs: 38_836_224,
        n_params: 49_408,
        check: (1065, 153288887, 215409, 18, 291),
    },
    Shipped {
        family: Family::ResNet,
        name: "07802_1886143784029105476",
        ops: "RRRRSHMCUHUS",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci/s,a:k,b:k,r:s] x[n,split(inner(shift(split(h,r)),s),c),unfold(outer(shift(split(h,r)),s),a),shift(unfold(w,b))] * w1[c,a,b,o]",
        n_macs: 58_103_808,
        n_params: 73_728,
        check: (2, 4113832, 2006, -26, 49),
    },
    Shipped {
        family: Family::ResNet,
        name: "07821_2007473137219684116",
        ops: "RRRHSHMCU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k,r:s] x[n,c,outer(shift(split(shift(h),r)),s),unfold(w,a)] * w1[c,a,o,inner(shift(split(shift(h),r)),s)]",
        n_macs: 77_170_688,
        n_params: 98_304,
        check: (-33, 3059337, -33165, -18, 0),
    },
    Shipped {
        family: Family::ResNet,
        name: "07826_6114070612837002015",
        ops: "RRRRSHMCSUU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci/s,a:k,b:k,r:s] x[n,split(inner(shift(split(h,r)),s),c),unfold(outer(shift(split(h,r)),s),a),unfold(w,b)] * w1[c,a,b,o]",
        n_macs: 58_103_808,
        n_params: 73_728,
        check: (-121, 4196393, -33853, 28, -67),
    },
    Shipped {
        family: Family::ResNet,
        name: "07835_16002866786022404197",
        ops: "RRRRRCUHSCUH",
        text: "y[n:N,o:Co,h:H,w:H] = sum[G:g,c:Ci/g,a:k,b:k,r:Co/g/s] x[n,split(G,c),shift(unfold(h,a)),shift(unfold(w,b))] * u[G,a,b,o,r] * v[split(G,c),a,r]",
        n_macs: 58_404_864,
        n_params: 74_496,
        check: (876, 431038938, 40807, -368, -27),
    },
    Shipped {
        family: Family::ResNet,
        name: "07883_14544127142014430823",
        ops: "RRRRRCSUHCU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[G:g,c:Ci/g,a:k,b:k,r:Co/g/s] x[n,split(G,c),shift(unfold(h,a)),unfold(w,b)] * u[G,a,b,o,r] * v[split(G,c),b,r]",
        n_macs: 58_404_864,
        n_params: 74_496,
        check: (-2042, 200299848, 86786, 194, -354),
    },
    Shipped {
        family: Family::ResNet,
        name: "07889_15252107013978896537",
        ops: "RRRRRCSCUU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[G:g,c:Ci/g,a:k,b:k,r:Co/g/s] x[n,split(G,c),unfold(h,a),unfold(w,b)] * u[G,a,b,o,r] * v[split(G,c),b,r]",
        n_macs: 58_404_864,
        n_params: 74_496,
        check: (1918, 208870926, 52001, -483, 323),
    },
    Shipped {
        family: Family::ResNeXt,
        name: "07897_6114267179208008652",
        ops: "RRRRHMCCSUU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[A:g*s,c:Ci/g/s,a:k,b:k] x[n,split(A,c),shift(h),unfold(unfold(w,a),b)] * u[c,a,b,outer(o,Co/g)] * v[A,inner(o,Co/g)]",
        n_macs: 9_031_680,
        n_params: 1_664,
        check: (77, 87958101, 65942, -294, -183),
    },
    Shipped {
        family: Family::ResNeXt,
        name: "07914_12248527428387887982",
        ops: "RRHMCSUH",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci/s,a:k] x[n,split(outer(o,Co/s),c),shift(h),shift(unfold(w,a))] * w1[c,a,inner(o,Co/s)]",
        n_macs: 77_271_040,
        n_params: 49_152,
        check: (80, 1020092, 22146, 16, 4),
    },
    Shipped {
        family: Family::ResNeXt,
        name: "07931_8761220119088126384",
        ops: "RRRRMHCUUHSS",
        text: "y[n:N,o:Co,h:H,w:H] = sum[r:s,a:k,b:k,c:Ci/g/s] x[n,split(r,split(unfold(outer(o,Co/g),a),c)),shift(h),shift(unfold(w,b))] * w1[outer(o,Co/g),a,c,b,inner(o,Co/g)]",
        n_macs: 7_626_752,
        n_params: 9_216,
        check: (-139, 3057719, 17990, -3, 54),
    },
    Shipped {
        family: Family::ResNeXt,
        name: "07947_6395975251446672862",
        ops: "RRRRMCUHCSU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[A:g*s,c:Ci/g/s,a:k,b:k] x[n,split(A,c),shift(unfold(h,b)),unfold(w,a)] * u[A,b,inner(o,Co/g)] * v[c,a,outer(o,Co/g)]",
        n_macs: 7_426_048,
        n_params: 1_920,
        check: (-17, 126771301, -64089, -199, 70),
    },
    Shipped {
        family: Family::ResNeXt,
        name: "07970_13527107031257803932",
        ops: "RRRRMCCSUU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[A:g*s,c:Ci/g/s,a:k,b:k] x[n,split(A,c),unfold(h,a),unfold(w,b)] * u[c,a,b,outer(o,Co/g)] * v[A,b,inner(o,Co/g)]",
        n_macs: 12_242_944,
        n_params: 2_688,
        check: (1230, 158646150, 63125, 130, 149),
    },
    Shipped {
        family: Family::DenseNet,
        name: "07961_6401135668858572539",
        ops: "RRHMUCU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,j:k*Co^2/g^2] x[n,c,shift(h),unfold(unfold(w,inner(o,Co/g)),j)] * w1[outer(o,Co/g),c,j]",
        n_macs: 9_658_880,
        n_params: 12_288,
        check: (-242, 58313042, 58310, 0, -278),
    },
    Shipped {
        family: Family::DenseNet,
        name: "07963_2554083715796580263",
        ops: "RRRHMCSSUH",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci/s,j:Co^2/g^2,a:k] x[n,split(outer(o,Co/s),c),shift(h),shift(unfold(w,split(j,a)))] * w1[c,inner(o,Co/s),a]",
        n_macs: 5_143_040,
        n_params: 3_072,
        check: (-94, 7214976, -43031, -63, 13),
    },
    Shipped {
        family: Family::DenseNet,
        name: "07964_4323581480662625558",
        ops: "RRHMCSUH",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,j:k*Co^2/g^2] x[n,c,shift(h),shift(unfold(w,split(j,inner(o,Co/g))))] * w1[outer(o,Co/g),j,c]",
        n_macs: 9_658_880,
        n_params: 12_288,
        check: (227, 3241421, -32663, 2, 41),
    },
    Shipped {
        family: Family::DenseNet,
        name: "07966_9231810682201044028",
        ops: "RRRRRHCSSSU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[r:s,c:Ci/s,b:Co/g,a:k,j:Co^2/g^2] x[n,split(r,c),unfold(h,split(b,split(a,j))),shift(w)] * w1[o,c,a]",
        n_macs: 5_092_864,
        n_params: 6_144,
        check: (1130, 4206654, 79814, -14, 73),
    },
    Shipped {
        family: Family::DenseNet,
        name: "07994_11516966528887301024",
        ops: "RRHMCSUH",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,j:k*Co^2/g^2] x[n,c,shift(h),shift(unfold(w,split(inner(o,Co/g),j)))] * w1[outer(o,Co/g),j,c]",
        n_macs: 9_658_880,
        n_params: 12_288,
        check: (-96, 3867724, -30714, 0, 9),
    },
    Shipped {
        family: Family::DenseNet,
        name: "08016_6819265326519619065",
        ops: "RRMHCUSH",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci/s,j:k*Co/g] x[n,split(outer(o,Co/s),c),shift(h),shift(unfold(w,j))] * w1[c,inner(o,Co/s),j]",
        n_macs: 4_841_984,
        n_params: 3_072,
        check: (-61, 1375491, 7012, 54, 0),
    },
    Shipped {
        family: Family::EfficientNet,
        name: "07971_12370354389890946784",
        ops: "RRRCSHMC",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,m:k^2*s,r:s] x[n,c,w,outer(shift(split(h,r)),s)] * u[o,r,m] * v[inner(shift(split(h,r)),s),c,m]",
        n_macs: 6_773_760,
        n_params: 8_640,
        check: (1322, 340293142, 66736, 283, -31),
    },
    Shipped {
        family: Family::EfficientNet,
        name: "07984_10020328540887494834",
        ops: "RRMSCC",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci/s,m:k^2] x[n,split(outer(o,Co/s),c),w,h] * u[inner(o,Co/s),m] * v[split(outer(o,Co/s),c),m]",
        n_macs: 1_843_968,
        n_params: 1_296,
        check: (-760, 36052152, -48307, -321, -82),
    },
    Shipped {
        family: Family::EfficientNet,
        name: "07984_10804812344036242576",
        ops: "RRRMHCUSC",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k,m:k2*s] x[n,c,split(outer(h,H/s),unfold(inner(h,H/s),a)),shift(w)] * u[o,a,m] * v[c,m]",
        n_macs: 6_999_552,
        n_params: 8_736,
        check: (-1616, 453598922, 27500, -406, 403),
    },
    Shipped {
        family: Family::EfficientNet,
        name: "08001_10858532835833128988",
        ops: "RRRRSHMCUC",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k^2,m:k2*s,r:s] x[n,c,h,unfold(outer(shift(split(w,r)),s),a)] * u[o,a,m] * v[c,inner(shift(split(w,r)),s),m]",
        n_macs: 20_217_792,
        n_params: 25_536,
        check: (945, 3849674627, 343034, -1160, 1622),
    },
    Shipped {
        family: Family::EfficientNet,
        name: "08003_6287674031550502849",
        ops: "RRMCUS",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k] x[n,c,split(outer(h,k2),unfold(inner(h,k2),a)),w] * w1[o,c,a]",
        n_macs: 21_826_560,
        n_params: 27_648,
        check: (141, 1920723, 11950, -7, 33),
    },
    Shipped {
        family: Family::EfficientNet,
        name: "08006_10544816633904346297",
        ops: "RRHMCUHS",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k] x[n,c,split(shift(unfold(outer(h,s),a)),inner(h,s)),shift(w)] * w1[o,c,a]",
        n_macs: 21_826_560,
        n_params: 27_648,
        check: (342, 3061874, 51093, 17, -32),
    },
    Shipped {
        family: Family::EfficientNet,
        name: "08010_7536903108522986843",
        ops: "RRRMHCCSU",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci/s,b:k2,m:k^2] x[n,split(outer(o,Co/s),c),shift(h),unfold(w,b)] * u[inner(o,Co/s),m] * v[c,b,m]",
        n_macs: 3_876_096,
        n_params: 2_376,
        check: (3382, 285417780, 113385, -163, -272),
    },
    Shipped {
        family: Family::EfficientNet,
        name: "08048_17609815469561061438",
        ops: "RRRMHCUHCS",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci/s,b:k2,m:k^2] x[n,split(outer(o,Co/s),c),shift(unfold(h,b)),shift(w)] * u[inner(o,Co/s),b,m] * v[c,m]",
        n_macs: 9_972_480,
        n_params: 6_264,
        check: (3507, 459105277, -72692, 187, -15),
    },
    Shipped {
        family: Family::EfficientNet,
        name: "08064_8250634564661998844",
        ops: "RRRRRCCUUHS",
        text: "y[n:N,o:Co,h:H,w:H] = sum[r:s,c:Ci/s,a:k,b:k2,m:k*k2] x[n,split(r,c),unfold(h,a),shift(unfold(w,b))] * u[o,a,m] * v[c,b,m]",
        n_macs: 12_286_848,
        n_params: 15_624,
        check: (424, 3841745182, -140553, -480, -430),
    },
    Shipped {
        family: Family::EfficientNet,
        name: "08072_11053958312673813227",
        ops: "RRHMCUS",
        text: "y[n:N,o:Co,h:H,w:H] = sum[c:Ci/s,b:k2] x[n,split(outer(o,Co/s),c),shift(h),unfold(w,b)] * w1[c,inner(o,Co/s),b]",
        n_macs: 25_439_232,
        n_params: 16_128,
        check: (-101, 1900195, 8048, 18, -11),
    },
    Shipped {
        family: Family::Gpt,
        name: "05675_10993262425417760381",
        ops: "RMMCS",
        text: "y[n:N,p:L,o:t*Hin] = sum[c:Hin/k1] x[n,p,split(outer(inner(o,Hin/k1^3/t),Hin/k1^4/t),c)] * w1[outer(o,Hin/k1^3/t),c,inner(inner(o,Hin/k1^3/t),Hin/k1^4/t)]",
        n_macs: 1_811_939_328,
        n_params: 442_368,
        check: (842, 11976392, 5993, 120, 51),
    },
];

/// Syno's hand-built operators and ours, with weight axes as the reference table lists them.
pub const HAND_BUILT: &[(&str, &str, Checksums)] = &[
    ("linear", "y[n:N, q:L, o:t*Hin] = sum[c:Hin] x[n, q, c] * w1[c, o]", (-38, 108528, 6091, -35, -34)),
    ("multi-query linear", "y[n:N, q:L, o:t*Hin] = sum[c:Hin] x[n, q, c] * w1[c, inner(o, Hin)]", (-213, 199953, -11360, 1, -19)),
    ("conv", "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k,b:k] x[n,c,unfold(h,a),unfold(w,b)] * w1[o,c,a,b]", (-33, 2332781, 3554, 68, 8)),
    ("conv1x1", "y[n:N,o:Co,h:H,w:H] = sum[c:Ci] x[n,c,h,w] * w1[o,c]", (-15, 1255555, 25642, -53, 21)),
    (
        "dilated",
        "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k,b:k] x[n,c,unfold(h,stride(a,k)),unfold(w,stride(b,k))] * w1[o,c,a,b]",
        (-75, 3127531, 8536, 47, -43),
    ),
    (
        "operator 1",
        "y[n:N,o:Co,h:H,w:H] = sum[G:g,c:Ci/g,a:k,b:k,r:Co/g/s] x[n,split(G,c),unfold(h,a),unfold(w,b)] * u[o,G,a,b,r] * v[split(G,c),b,r]",
        (-1137, 152503209, -12362, 178, 101),
    ),
    (
        "stacked",
        "y[n:N,o:Co,h:H,w:H] = sum[G:g,c:Ci/g,a:k,b:k,e:k,r:Co/g/s] x[n,split(G,c),unfold(h,a),unfold(unfold(w,b),e)] * u[o,G,a,b,r] * v[split(G,c),e,r]",
        (-99, 449977153, -63187, 386, 623),
    ),
    (
        "grouped, tied",
        "y[n:N,o:Co,h:H,w:H] = sum[c:Ci/s,a:k,b:k] x[n,split(outer(o,Co/s),c),unfold(h,a),unfold(w,b)] * w1[inner(o,Co/s),c,a,b]",
        (19, 1778951, -6146, 62, 5),
    ),
    (
        "grouped low rank",
        "y[n:N,o:Co,h:H,w:H] = sum[G:g,c:Ci/g,a:k,b:k,r:Co/g/s] x[n,split(G,c),unfold(h,a),unfold(w,b)] * u[r,split(G,c),a,b] * v[o,G,r]",
        (-1099, 73219817, 74939, -317, -365),
    ),
    (
        "pooled",
        "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k,b:k,p:s,q:s] x[n,c,split(unfold(outer(h,s),a),p),split(unfold(outer(w,s),b),q)] * w1[o,c,a,b]",
        (-204, 17211188, -13134, 71, -15),
    ),
    (
        "pooled h",
        "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k,b:k,p:s] x[n,c,split(unfold(outer(h,s),a),p),unfold(w,b)] * w1[o,c,a,b]",
        (84, 6800744, -4656, -13, 27),
    ),
    ("1-d conv and shift", "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k] x[n,c,unfold(h,a),shift(w)] * w1[o,c,a]", (56, 1877964, -9659, 69, -54)),
    (
        "1-d conv and patches",
        "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k,j:k2] x[n,c,unfold(h,a),split(outer(w,k2),j)] * w1[o,c,a,j,inner(w,k2)]",
        (-122, 3550048, -935, -26, 26),
    ),
    ("transposed", "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k] x[n,c,unfold(w,a),h] * w1[o,c,a]", (56, 1877964, 209, -7, 33)),
    ("2-d shift", "y[n:N,o:Co,h:H,w:H] = sum[c:Ci] x[n,c,shift(h),shift(w)] * w1[o,c]", (-15, 1255555, 24570, -53, 21)),
    (
        "07923",
        "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k,r:s] x[n,c,outer(shift(split(h,r)),s),unfold(w,a)] * w1[inner(shift(split(h,r)),s),o,a,c]",
        (-26, 9473510, -15046, -28, 129),
    ),
    ("depthwise", "y[n:N,o:C,h:H,w:H] = sum[a:k,b:k] x[n,o,unfold(h,a),unfold(w,b)] * w1[o,a,b]", (7, 1236669, 24676, 25, 27)),
    (
        "separable",
        "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,a:k,b:k] x[n,c,unfold(h,a),unfold(w,b)] * u[c,a,b] * v[o,c]",
        (-379, 150763995, -31153, -146, -223),
    ),
    ("sum pooling", "y[n:N,c:C,h:H/s,w:H/s] = sum[p:s,q:s] x[n,c,split(h,p),split(w,q)]", (-1, 13539, -675, -5, -1)),
    (
        "pixel shuffle",
        "y[n:N,c:C/s^2,h:s*H,w:s*H] = x[n,split(split(c,inner(h,s)),inner(w,s)),outer(h,s),outer(w,s)]",
        (-1, 16005, -1889, -4, -3),
    ),
    (
        "space to depth",
        "y[n:N,c:C*s^2,h:H/s,w:H/s] = x[n,outer(c,s^2),split(h,outer(inner(c,s^2),s)),split(w,inner(inner(c,s^2),s))]",
        (-1, 16005, 3294, -4, -3),
    ),
    ("low rank 1x1", "y[n:N,o:Co,h:H,w:H] = sum[c:Ci,G:g] x[n,c,h,w] * u[c,G] * v[G,o]", (14, 13436412, -41198, -2, -169)),
    (
        "grouped",
        "y[n:N,o:Co,h:H,w:H] = sum[c:Ci/s,a:k,b:k] x[n,split(outer(o,Co/s),c),unfold(h,a),unfold(w,b)] * w1[split(outer(o,Co/s),c),a,b,inner(o,Co/s)]",
        (-134, 2934452, 1938, -33, 5),
    ),
    (
        "operator 1 as found",
        "y[n:N,o:Co,h:H,w:H] = sum[G:g,c:Ci/g,a:k,b:k,r:Co/g/s] x[n,split(G,c),unfold(h,a),unfold(w,b)] * u[G,a,b,o,r] * v[split(G,c),b,r]",
        (1918, 208870926, 52001, -483, 323),
    ),
    (
        "operator 2",
        "y[n:N,o:Co,h:H,w:H] = sum[G:g,c:Ci/g,a:k,b:k,r:Co/g/s] x[n,split(G,c),shift(unfold(h,a)),unfold(w,b)] * u[o,G,a,r] * v[split(G,c),b,r]",
        (-537, 133779099, -122125, 197, 178),
    ),
    (
        "07750",
        "y[n:N,o:Co,h:H,w:H] = sum[c:Ci/s,a:k,r:s] x[n,split(inner(shift(split(h,r)),s),c),outer(shift(split(h,r)),s),shift(unfold(w,a))] * w1[r,c,a,o]",
        (-225, 2558855, -38468, 13, -24),
    ),
];

#[test]
fn operators_compute_the_reference_checksums_staged_and_flat() {
    for (name, text, expected) in HAND_BUILT {
        let operator = Operator::parse_ordered(text).unwrap();
        assert_eq!(checksums(&lower::lower_flat(&operator, &set_a()).unwrap()), *expected, "{name}, flat");
        assert_eq!(checksums(&lower::lower(&operator, &set_a()).unwrap()), *expected, "{name}, staged");
    }
}

#[test]
fn shipped_operators_compute_the_listed_checksums_staged_and_flat() {
    for o in SHIPPED {
        let operator = Operator::parse_ordered(o.text).unwrap();
        let binding = o.family.small();
        assert_eq!(checksums(&lower::lower_flat(&operator, &binding).unwrap()), o.check, "{}, flat", o.name);
        assert_eq!(checksums(&lower::lower(&operator, &binding).unwrap()), o.check, "{}, staged", o.name);
    }
}

/// Where our staging differs: `(name, ours)`. Syno counts every view (a shift or an unused part of a sum at the end, or before the
/// contraction) as a stage of one multiply-add per element; here views are indices of the stage that reads them.
const FEWER: &[(&str, u64)] = &[
    ("07720_1733478246404418686", 77_070_336),
    ("07795_7783544957109366863", 38_735_872),
    ("07821_2007473137219684116", 77_070_336),
    ("07897_6114267179208008652", 8_830_976),
    ("07914_12248527428387887982", 77_070_336),
    ("07931_8761220119088126384", 7_426_048),
    ("07947_6395975251446672862", 7_225_344),
    ("07970_13527107031257803932", 12_042_240),
    ("07961_6401135668858572539", 9_633_792),
    ("07963_2554083715796580263", 4_816_896),
    ("07964_4323581480662625558", 9_633_792),
    ("07966_9231810682201044028", 4_917_248),
    ("07994_11516966528887301024", 9_633_792),
    ("08016_6819265326519619065", 4_816_896),
    ("07984_10020328540887494834", 1_693_440),
    ("07984_10804812344036242576", 6_849_024),
    ("08003_6287674031550502849", 21_676_032),
    ("08006_10544816633904346297", 21_676_032),
    ("08010_7536903108522986843", 3_725_568),
    ("08048_17609815469561061438", 9_821_952),
    ("08072_11053958312673813227", 25_288_704),
];

#[test]
fn shipped_operators_have_the_listed_parameters_and_multiply_adds() {
    assert_eq!(SHIPPED.len(), 34);
    for o in SHIPPED {
        let operator = Operator::parse_ordered(o.text).unwrap();
        assert_eq!(operator.n_params(&o.family.layer()).unwrap(), o.n_params, "{}", o.name);
        let nest = lower::lower(&operator, &o.family.layer()).unwrap();
        let ours = FEWER.iter().find(|f| f.0 == o.name).map_or(o.n_macs, |f| f.1);
        assert_eq!(nest.n_macs(), ours, "{}\n{}", o.name, nest.print());
        assert!(ours <= o.n_macs, "{}: {ours} multiply-adds, Syno {}", o.name, o.n_macs);
    }
}

#[test]
fn pairs_that_differ_by_symbols_only_are_equal_where_those_are_1() {
    let binding = set_a().with("g", 8);
    for (one, two, expected) in [("07963", "08016", (-6, 3191534, -596, 17, 2)), ("07964", "07994", (15, 3834785, -2047, 21, -2))] {
        for name in [one, two] {
            let o = SHIPPED.iter().find(|o| o.name.starts_with(name)).unwrap();
            let nest = lower::lower(&Operator::parse_ordered(o.text).unwrap(), &binding).unwrap();
            assert_eq!(checksums(&nest), expected, "{name}");
        }
    }
}

#[test]
fn shipped_operators_are_made_of_the_listed_actions() {
    for o in SHIPPED {
        let operator = Operator::parse_ordered(o.text).unwrap();
        let mut merged = Vec::new();
        let mut made = vec!['C'; operator.weights().len()];
        for d in operator.dims() {
            match operator.graph().prim(d) {
                Prim::Reduce(_) => made.push('R'),
                Prim::Split(..) => made.push('S'),
                Prim::Shift(_) => made.push('H'),
                Prim::Unfold(..) => made.push('U'),
                Prim::Outer(x, block) | Prim::Inner(x, block) if !merged.contains(&(x, block)) => {
                    merged.push((x, block));
                    made.push('M');
                }
                _ => {}
            }
        }
        let mut listed: Vec<char> = o.ops.chars().collect();
        made.sort_unstable();
        listed.sort_unstable();
        assert_eq!(made, listed, "{}", o.name);
    }
}
