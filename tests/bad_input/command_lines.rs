//! Command lines and the files that they name.

use crate::common::{Folder, write_images};
use crate::{refused, samcore};
use std::fs;

/// The mistake, the command line, its exit code, and the words of the message.
type Row = (&'static str, &'static str, i32, &'static [&'static str]);

/// With every unknown name the nearest one is suggested.
#[rustfmt::skip]
const WORDS: &[Row] = &[
    ("no command", "", 2, &["a command is missing"]),
    ("unknown command", "trian", 2, &["unknown command 'trian'; did you mean 'train'?"]),
    ("unknown flag", "train --epoch 3", 2, &["unknown flag '--epoch'; did you mean '--epochs'?"]),
    ("a flag without value", "train --lr", 2, &["a value is required for '--lr <X>'"]),
    ("unknown model", "train --data data --model cnm", 2, &["unknown model 'cnm'; did you mean 'cnn'?"]),
    ("a model unlike any", "train --data data --model vit", 2, &["unknown model 'vit'; it is not built in, these are: cnn"]),
    ("a model beyond counting", "info --model wrn-1000-1000", 2, &["more than 2147483648 parameters", "take a smaller one"]),
    ("a pyramid beyond counting", "info --model pyramidnet-2000-a10000", 2, &["more than 2147483648 parameters"]),
    ("a batch beyond counting", "info --model wrn-10-1 --batch 4294967295 --size 512", 2, &["more than", "give a smaller batch"]),
    ("unknown ResNet", "train --model resnet19", 2, &["unknown model 'resnet19'; did you mean 'resnet18'?"]),
    ("unknown optimizer", "train --opt samm --data none", 2, &["unknown optimizer 'samm'; did you mean 'sam'?"]),
    ("an optimizer of the field", "train --opt adamw --data none", 2, &["unknown optimizer 'adamw'; it is not built in, these are: sgd, sam"]),
    ("two letters swapped", "train --opt gasm --data none", 2, &["did you mean 'gsam'?"]),
    ("unknown command like none", "serve", 2, &["unknown command 'serve'; '--help' lists all"]),
    ("a model as a topic", "info resnet18", 2, &["it is a model, which --model takes: samcore info --model resnet18"]),
    ("a name beside a folder", "train --out a --name b", 2, &["'--out <DIR>' cannot be used with '--name <NAME>'"]),
    ("a text as a checkpoint", "eval typo.toml", 65, &["it is a text; the weights of a run are in best.safetensors and last.safetensors"]),
    ("a folder without a checkpoint", "eval data", 66, &["data is a folder without best.safetensors or last.safetensors"]),
    ("a comparison as a checkpoint", "eval cmp", 66, &["it is of a comparison: samcore compare --resume cmp"]),
    ("unknown schedule", "train --schedule cosin", 2, &["--schedule must be one of cosine, step", "did you mean 'cosine'?"]),
    ("unknown device", "train --device cudaa", 2, &["--device", "not 'cudaa'; did you mean 'cuda'?"]),
    ("unknown split", "eval x --split tset", 2, &["--split must be one of test, train", "did you mean 'test'?"]),
    ("unknown topic", "info modles", 2, &["unknown topic 'modles'; did you mean 'models'?"]),
    ("unknown operation", "check rellu", 2, &["unknown operation or model 'rellu'; did you mean 'relu'?"]),
    ("unknown shell", "completions bsah", 2, &["unknown shell 'bsah'; did you mean 'bash'?"]),
    ("unknown page", "man chekc", 2, &["unknown command 'chekc'; did you mean 'check'?"]),
    ("unknown action", "data fech", 2, &["unknown command 'fech'; did you mean 'fetch'?"]),

    ("rho below 0", "train --rho -0.1", 2, &["--rho must be a number of at least 0, not '-0.1'"]),
    ("rho NaN", "train --rho nan", 2, &["--rho must be a number of at least 0, not 'nan'"]),
    ("rho infinite", "train --rho 1e999", 2, &["--rho must be a number of at least 0, not '1e999'"]),
    ("lr of 0", "train --lr 0", 2, &["--lr must be a number above 0, not '0'"]),
    ("no batch", "train --batch 0", 2, &["--batch must be a whole number from 1"]),
    ("a batch of half an image", "train --batch 0.5", 2, &["--batch must be a whole number from 1", "'0.5'"]),
    ("no epoch", "train --epochs 0", 2, &["--epochs must be a whole number from 1"]),
    ("a seed below 0", "check --seed -3", 2, &["--seed must be a whole number from 0"]),
    ("a seed beyond 64 bits", "train --seed 18446744073709551616", 2, &["--seed must be a whole number from 0"]),
    ("classes by word", "info --classes none", 2, &["--classes must be a whole number from 1"]),

    ("D that is not 6n + 4", "train --model wrn-17-4", 2, &["wrn-17-4: D must be 6n + 4, such as 16 or 22"]),
    ("D too small", "train --model wrn-4-1", 2, &["wrn-4-1: D must be 6n + 4, such as 10 or 16"]),
    ("K of 0", "train --model wrn-16-0", 2, &["wrn-16-0: K must be at least 1"]),
    ("no K", "train --model wrn-16", 2, &["wrn-16: a wide ResNet is named wrn-D-K"]),
    ("D beyond all bounds", "info --model wrn-9999999999999999999999-1", 2, &["wrn-9999999999999999999999-1"]),
    ("K beyond all bounds", "info --model wrn-16-99999999999", 2, &["wrn-16-99999999999: D may be at most"]),
    ("images too small", "info --model cnn --size 3", 2, &["model cnn on 3x3x1 images", "pool2: max_pool"]),
    ("D that is not 6n + 2", "train --model shake-shake-27-2x32d", 2, &["27-2x32d: D must be 6n + 2, such as 26 or 32"]),
    ("three branches", "train --model shake-shake-26-3x32d", 2, &["shake-shake-26-3x32d: B must be 2"]),
    ("an odd width", "train --model shake-shake-26-2x33d", 2, &["shake-shake-26-2x33d: W must be even"]),
    ("no width", "train --model shake-shake-26", 2, &["shake-shake-26: a Shake-Shake network is named shake-shake-D-BxWd"]),
    ("a pyramid's D", "train --model pyramidnet-111-a270", 2, &["without bottlenecks D must be 6n + 2, such as 110 or 116"]),
    ("a wrong order", "info --model pyramidnet-110-a9-shakedrop-bottleneck", 2, &["a PyramidNet is named pyramidnet-D-aA"]),
    ("sides not halved", "info --model pyramidnet-8-a12 --size 30", 2, &["on 30x30x3 images: both sides must be multiples of 4"]),
];

/// On the folder that [`world`] makes; all train `cnn` on 40 images of 14 x 14 into a new folder.
#[rustfmt::skip]
const TRAINING: &[Row] = &[
    ("a batch beyond the set", "--batch 41", 2, &["--batch 41 is more than the 40 training images of data"]),
    ("a batch beyond what is left", "--batch 32 --val-fraction 0.5", 2, &["--batch 32 is more than the 20 training images"]),
    ("no validation image", "--batch 8 --val-fraction 0.001", 2, &["a validation fraction of 0.001 leaves 0 of 40 images"]),
    ("m that does not divide", "--batch 8 --opt sam --m 3", 2, &["--m 3 does not divide the batch of 8 images", "m may be 1, 2, 4, 8"]),
    ("m beyond the batch", "--batch 8 --opt sam --m 16", 2, &["--m 16 does not divide the batch of 8 images"]),
    ("accumulate that does not divide", "--batch 8 --accumulate 3", 2, &["--accumulate 3 does not divide the batch of 8 images"]),
    ("parts that do not divide m", "--batch 12 --opt sam --m 4 --accumulate 4", 2, &["--accumulate 4 makes parts of 3 images", "--m 4"]),
    ("freezing what is not there", "--batch 8 --freeze conv1,fc3", 2, &["--freeze fc3: no parameter", "did you mean 'fc"]),
    ("freezing a novel", "--batch 8 --freeze transformer", 2, &["--freeze transformer: no parameter", "they begin with: conv1, bn1"]),
    ("freezing all", "--batch 8 --freeze conv1,conv2,conv3,conv4,bn1,bn2,bn3,bn4,fc1,fc2", 2, &["leaves no parameter to train"]),
    ("a mirror larger than the image", "--batch 8 --crop 14 --crop-padding reflect", 2, &["--crop 14 mirrors more than"]),
    ("a name that is a path", "--batch 8 --name a/b", 2, &["--name must consist of letters"]),
    ("no GPU", "--batch 8 --device cuda", 69, &["--device cuda", "--device cpu"]),
    ("no second GPU", "--batch 8 --device cuda:1", 69, &["--device cuda:1"]),
    ("a device of another name", "--batch 8 --device gpu", 2, &["--device must be one of auto, cpu, cuda, cuda:N, emu, not 'gpu'"]),
    ("a GPU without a number", "--batch 8 --device cuda:x", 2, &["cuda:N", "did you mean 'cuda'?"]),
    ("f16 on a CPU", "--batch 8 --device cpu --dtype f16", 69, &["--dtype f16: the CPU computes in f32 and bf16; use --device cuda or emu"]),
    ("a dtype that is none", "--batch 8 --dtype f61", 2, &["--dtype must be one of f32, tf32, bf16, f16"]),
    ("a folder with files", "--batch 8 --out data", 73, &["data is not empty", "give --out another folder"]),
    ("a folder below a file", "--batch 8 --out typo.toml/run", 73, &["cannot create folder typo.toml/run"]),
    ("a config that is missing", "--config none.toml", 66, &["cannot read none.toml"]),
    ("a config that is a folder", "--config data", 66, &["cannot read data"]),
    ("a config below a file", "--config typo.toml/x", 66, &["cannot read typo.toml/x"]),
    ("a config with an unknown key", "--config typo.toml", 65, &["typo.toml line 2: unknown key 'bacth'; did you mean 'batch'?"]),
    ("a config out of range", "--config range.toml", 65, &["range.toml line 1: momentum must be a number from 0 to below 1"]),
    ("a config of another type", "--config type.toml", 65, &["type.toml line 1: lr must be a number above 0, not \"fast\""]),
    ("a config that is no TOML", "--config broken.toml", 65, &["broken.toml line 1"]),
    ("a config that is no text", "--config binary.toml", 65, &["binary.toml: byte 5 is not UTF-8 text"]),
    ("a config without an end", "--config /dev/zero", 65, &["/dev/zero is too long, or has no end, and at most 1 MiB are expected"]),
    ("two averages of weights", "--batch 8 --swa 0.5 --ema 0.9", 2, &["--swa 0.5 and --ema 0.9 both average the weights"]),
    ("a radius that falls upwards", "--batch 8 --opt gsam --rho 0.05 --rho-min 0.1", 2, &["--rho-min 0.1 is above --rho 0.05"]),
    ("decay of rounded weights", "--batch 8 --l2-in-loss --dtype bf16", 2, &["--l2-in-loss needs weights in f32, which --dtype bf16 has not"]),
    ("batch-norms that are all frozen", "--batch 8 --opt sam-on --freeze bn1,bn2,bn3,bn4", 2, &["--opt sam-on perturbs batch-norms"]),
    ("groups of a batch for LookSAM", "--batch 8 --opt looksam --m 3", 2, &["--m 3 does not divide the batch"]),
    ("weights that are missing", "--batch 8 --init none.safetensors", 66, &["--init: cannot read none.safetensors"]),
    ("weights that are a folder", "--batch 8 --init data", 66, &["--init: data is a folder without best.safetensors or last.safetensors"]),
    ("weights that are a text", "--batch 8 --init typo.toml", 65, &["--init: typo.toml is not a sound safetensors file"]),
    ("a rate of no layer", "--batch 8 --group-lr conv1=0.1,fc3=0.1", 2, &["--group-lr fc3: no parameter", "did you mean 'fc"]),
    ("a layer without its rate", "--batch 8 --group-lr fc1", 2, &["--group-lr must be names with a number above 0 each", "'fc1'"]),
    ("a layer's rate of 0", "--batch 8 --group-lr fc1=0", 2, &["--group-lr must be names with a number above 0 each", "'fc1=0'"]),
    ("two rates of a layer", "--batch 8 --group-lr fc1=0.1,fc1=0.2", 2, &["--group-lr: fc1 is there twice"]),
    ("two rates of the head", "--batch 8 --head-lr 0.1 --group-lr fc2=0.2", 2, &["--group-lr: fc2 has a rate by --head-lr too"]),
    ("a rate of what is frozen", "--batch 8 --freeze conv1 --group-lr conv1=0.1", 2, &["--group-lr: --freeze holds all of conv1"]),
];

/// The commands about other things than one run.
#[rustfmt::skip]
const OTHERS: &[Row] = &[
    ("a model for other images", "train --data tiny --model cnn --batch 4", 2, &["model cnn on 3x3x1 images: pool2: max_pool"]),
    ("no model for these images", "train --data data", 2, &["no model is chosen by itself for 14x14x1 images; give --model"]),

    ("unknown budget", "compare --budget equal", 2, &["--budget must be one of equal-gradients, equal-epochs, not 'equal'"]),
    ("a budget beyond 32 bits", "compare --data data --model cnn --batch 8 --epochs 4294967295 --out new", 2, &["--epochs 4294967295 makes 8589934590 epochs of the cheapest"]),
    ("no seeds", "compare --seeds 0", 2, &["--seeds must be a number of seeds from 1"]),
    ("a seed twice", "compare --seeds 1,2,1", 2, &["--seeds names 1 twice"]),
    ("an optimizer twice", "compare --opt sam,sam", 2, &["--opt names sam twice"]),
    ("an unknown optimizer among them", "compare --opt sgd,samm", 2, &["unknown optimizer 'samm'; did you mean 'sam'?"]),
    ("a folder of other things", "compare --data data --model cnn --batch 8 --out data", 73, &["data holds t10k-images-idx3-ubyte, which is no run"]),
    ("no comparison", "compare --resume data", 66, &["data is not the folder of a comparison"]),
    ("another comparison", "compare --data data --model cnn --batch 20 --epochs 1 --seeds 1 --out cmp --lr 0.02", 73, &["cmp", "lr"]),
    ("other settings", "compare --resume cmp --lr 0.02", 2, &["lr"]),
    ("an unknown key", "compare --config typo.toml", 65, &["typo.toml line 2: unknown key 'bacth'"]),
    ("seeds that are none", "compare --config seeds.toml", 65, &["seeds.toml line 2: seeds must be whole numbers, such as [0, 1, 2]"]),
    ("m that does not divide", "compare --data data --model cnn --batch 8 --m 3 --out new", 2, &["--m 3 does not divide the batch"]),
    ("freezing what is not there", "compare --data data --model cnn --batch 8 --freeze x --out new", 2, &["--freeze x: no parameter"]),
    ("no weights for a comparison", "compare --data data --model cnn --batch 8 --init none.safetensors --out new", 66, &["--init: cannot read none.safetensors"]),
    ("no GPU for a comparison", "compare --data data --model cnn --batch 8 --device cuda --out new", 69, &["--device cuda"]),

    ("the checker on a CPU", "check relu --sanitize", 2, &["give --device emu"]),
    ("an order of threads that is none", "check relu --device emu --order up", 2, &["--order must be ascending, descending"]),
    ("a case that is none", "check relu --case 9x9x9", 2, &["no case has '9x9x9' in its label"]),
    ("nothing to tune on a CPU", "bench --step cnn --device cpu --tune t.json", 2, &["nothing to tune on a CPU"]),
    ("tuning of no model", "bench --tune t.json", 2, &["--step"]),
    ("no GPU for info", "info --model cnn --device cuda", 69, &["--device cuda"]),
    ("no GPU to evaluate on", "check relu --device cuda", 69, &["--device cuda"]),

    ("no file to compare with", "bench relu --compare none.json", 66, &["cannot read none.json"]),
    ("a folder to compare with", "bench relu --compare data", 66, &["cannot read data"]),
    ("results without an end", "bench relu --compare /dev/zero", 65, &["/dev/zero is too long, or has no end"]),
    ("a comparison without an end", "compare --config /dev/zero", 65, &["/dev/zero is too long, or has no end"]),
    ("an empty file to compare with", "bench relu --compare empty", 65, &["empty: line 1: there is no result"]),
    ("a config to compare with", "bench relu --compare typo.toml", 65, &["typo.toml: line 1: no whole JSON value"]),
    ("a damaged result", "bench relu --compare cut.json", 65, &["cut.json: line 2: no whole JSON value in the line (column 8)"]),
    ("a result without name", "bench relu --compare nameless.json", 65, &["nameless.json: line 1: there is no \"name\""]),
    ("images to compare with", "bench relu --compare data/train-images-idx3-ubyte", 65, &["data/train-images-idx3-ubyte: line 1"]),
    ("results into a folder", "bench relu --json data", 73, &["--json: data is a folder"]),
    ("results into no folder", "bench relu --json none/x.json", 73, &["--json: there is no folder none"]),
    ("a dtype that is not there", "bench --step cnn --device cpu --dtype tf32", 69, &["--dtype tf32: the CPU computes in f32 and bf16"]),
    ("loading of no data set", "bench --data nowhere", 66, &["no data set and no folder 'nowhere'"]),

    ("noise beyond 1", "data noise data --rate 1.5 --out new", 2, &["--rate must be a number above 0 to 1, not '1.5'"]),
    ("noise into a folder that is there", "data noise data --rate 0.5 --out cmp", 73, &["cmp is there already; give --out a new folder"]),
    ("noise into a file", "data noise data --rate 0.5 --out typo.toml", 73, &["typo.toml is there already"]),
    ("noise below a file", "data noise data --rate 0.5 --out typo.toml/new", 73, &["typo.toml"]),
    ("pages below a file", "man --out typo.toml/man1", 73, &["cannot create folder typo.toml/man1"]),

    ("a preset of augmentation that is none", "train --augment basik", 2, &["--augment must be one of own, none, basic, cutout, aa", "did you mean 'basic'?"]),
    ("mixup below 0", "train --mixup -1", 2, &["--mixup must be a number of at least 0, not '-1'"]),
    ("mixup of a single image", "train --data data --model cnn --batch 1 --mixup 1 --out new", 2, &["--mixup mixes the images of a batch; --batch 1 has one"]),
    ("AutoAugment by level", "train --autoaugment 3", 2, &["--autoaugment must be true or false, not '3'"]),
    ("a preset's crop beyond the image", "train --data tiny --model cnn --batch 4 --augment basic --out new", 2, &["--crop 4 mirrors more than the image has"]),
    ("noise of all labels", "train --label-noise 1", 2, &["--label-noise must be a number from 0 to below 1"]),
    ("a way to draw noise without noise", "train --data data --noise-all", 2, &["--noise-all needs --label-noise"]),
    ("a share of no loss's", "train --data data --beta 0.5", 2, &["--beta is for --loss reed-soft and reed-hard"]),
    ("more images than there are", "train --data data --model cnn --batch 8 --train-images 41 --out new", 2, &["--train-images 41 is more than the 40 training images"]),
    ("a batch beyond those used", "train --data data --model cnn --batch 32 --train-images 20 --out new", 2, &["--batch 32 is more than the 20 training images"]),
    ("labels by no checkpoint", "train --data data --model cnn --batch 8 --relabel none.safetensors --out new", 66, &["--relabel", "none.safetensors"]),
    ("labels by a config", "train --data data --model cnn --batch 8 --relabel typo.toml --out new", 65, &["--relabel", "typo.toml"]),
    ("labels by a model of other images", "train --data tiny --model wrn-10-1 --crop 0 --batch 4 --relabel cmp/sgd-seed0/last.safetensors --out new", 65, &["--relabel", "is for 14x14x1 images"]),
    ("two runs into no folder", "train --data data --model cnn --batch 8 --bootstrap", 2, &["--bootstrap makes two runs; give --out DIR"]),
    ("two runs that are relabelled", "train --data data --model cnn --batch 8 --bootstrap --relabel x --out new", 2, &["--relabel is what --bootstrap does by itself"]),
    ("no study", "study", 2, &["an action is missing: corrupt, sharpness"]),
    ("a study of no checkpoint", "study corrupt none.safetensors", 66, &["cannot read none.safetensors"]),
    ("a study of a config", "study sharpness typo.toml", 65, &["typo.toml is not a sound safetensors file"]),
    ("eps below 0", "study corrupt none --eps -1", 2, &["--eps must be ascending numbers of at least 0, not '-1'"]),
    ("eps that descend", "study corrupt none --eps-inf 0.1,0.01", 2, &["--eps-inf must be ascending numbers", "'0.1,0.01'"]),
    ("eps by word", "study corrupt none --eps large", 2, &["--eps must be ascending numbers", "'large'"]),
    ("no entries", "study corrupt none --n 0", 2, &["--n must be numbers of parameters such as all, 1% or 100", "'0'"]),
    ("a norm that is none", "study corrupt none --norm 3", 2, &["--norm must be one of both, 2, inf, not '3'"]),
    ("layers without a map", "study corrupt none --depth 0 --layers conv1", 2, &["--layers needs a --depth of at least 1"]),
    ("a rho that is none", "study sharpness none --rho nan", 2, &["--rho must be ascending numbers of at least 0, not 'nan'"]),
    ("groups of nothing", "study sharpness none --m 8,0", 2, &["--m must be whole numbers from 1, not '8,0'"]),
    ("no ascent", "study sharpness none --steps 0", 2, &["--steps must be a whole number from 1"]),
    ("points into no folder", "study corrupt none --csv nowhere/x.csv", 73, &["--csv: there is no folder nowhere"]),
    ("results among other files", "study sharpness none --out data", 73, &["--out: data is not empty; give another folder"]),
    ("results below a file", "study sharpness none --out typo.toml/x", 73, &["--out: typo.toml/x cannot be used"]),
    ("all-layer margins in parts", "train --opt amo --accumulate 2 --data none", 2, &["--accumulate 2 divides the batch, and amo perturbs the activations of a whole one"]),
    ("robust ones in groups", "train --opt robust-amo --m 32 --data none", 2, &["--m 32 divides the batch, and robust-amo perturbs"]),
    ("no step of the perturbation", "train --opt amo --inner-steps 0", 2, &["--inner-steps must be a whole number from 1"]),
    ("a norm that corruption has not", "train --opt corruption --corruption-p 1", 2, &["--corruption-p must be one of 2, inf, not '1'"]),
];

/// Two data sets, a small comparison, and files that are wrong.
fn world() -> Folder {
    let folder = Folder::with_images("bad-lines", 40, 20, 2);
    write_images(&folder.path("tiny"), 8, 8, 10);
    for (name, content) in [
        ("typo.toml", &b"lr = 0.1\nbacth = 64\n"[..]),
        ("range.toml", b"momentum = 1.0\n"),
        ("type.toml", b"lr = \"fast\"\n"),
        ("broken.toml", b"lr = = 1\n"),
        ("binary.toml", b"lr = \xff\xfe"),
        ("seeds.toml", b"lr = 0.1\nseeds = [0, -1]\n"),
        ("empty", b""),
        ("cut.json", b"{\"name\": \"a\", \"ms\": {\"median\": 1.5}}\n{\"name\":"),
        ("nameless.json", b"{\"ms\": {\"median\": 1.5}}\n"),
    ] {
        fs::write(folder.path(name), content).unwrap();
    }
    let settings = "--data data --model cnn --batch 20 --epochs 1 --lr 0.01";
    samcore(&folder.0, &format!("compare {settings} --seeds 1 --out cmp")).well();
    folder
}

#[test]
fn each_mistake_gets_one_line_its_exit_code_and_changes_nothing() {
    let folder = world();
    for (what, line, code, words) in WORDS.iter().chain(OTHERS) {
        refused(&folder, what, line, *code, words);
    }
    for (what, flags, code, words) in TRAINING {
        let out = if flags.contains("--out") || flags.contains("--name") { "" } else { "--out run" };
        refused(&folder, what, &format!("train --data data --model cnn {flags} {out}"), *code, words);
    }
}
