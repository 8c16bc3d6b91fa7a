// A whole decode step as one kernel: one CTA an SM, all of them resident. A warp of each fetches the CTA's tiles of all
// layers, weights and cache alike, without a stop (tape.h); the others go through the phases of each layer together with
// those of the other CTAs. What a phase makes is published word by word with a tag (exchange.h): no fence is needed. A
// relaxed counter says when a vector is probably complete, so that not everybody polls it all the time.
//
// The phases are a list (Phases), which says of each what it reads and writes. All else follows by counting: a vector's tag
// is the parity of how often it was written, since the step began where the embedding begins it, else since ever. Nobody
// writes a word again before all have read it, since every phase needs all of the phase before, and none writes what it
// reads; a row that is added to belongs to one lane.
//
// Where a branch has a norm before it is added, its product stays in a vector of its own. Who reads the stream next adds it
// while encoding, each CTA for itself; the CTAs together publish the sum in another vector than the one that is still read.
//
// Layers may differ in the shapes and formats of their matrices, in their heads, and in whether they keep a cache of their
// own (ByLayer): each kind is a piece of code, and all of them are at hand in one kernel.
#pragma once
#include <initializer_list>
#include <type_traits>

#include "imp/stage/encode.h"
#include "imp/stage/epilogue.h"
#include "imp/stage/rows.h"
#include "imp/stage/step_attend.h"
#include "imp/stage/step_fetcher.h"
#include "imp/stage/step_phase.h"
#include "imp/stage/tape.h"
#include "imp/stage/warp_units.h"

namespace imp {

template <class Pointers, StepConfig C, class L, class Head>
struct Step {
  // Emitted, by name:
  //   x          u32 [hidden], as the embedding left it
  //   qkv        u32 [heads + 2 kv heads, head_dim]
  //   attention  u32 [heads, head_dim]
  //   gated      u32
  //   extra      u32, what gates have made of the token's own input to a layer, if there is one
  //              These four in layer[].vectors where layers have any of them in several lengths, else once for all.
  //   partial    u64 [items, splits, queries, head_dim + 2]: a float, and which layer of which step made it
  //   handed     u64 [layers, StepAttention::kHandedWords]: likewise words of new rows, if others read a layer's cache
  //   counters   u32: layers so far, and steps, if anybody wants to know; then, 128 bytes apart, arrivals of each kind of phase
  //   turns      of each table, where heads turn
  //   rows, positions; cache, table: of all layers, where these are one group and alike
  //   branch     u32 [hidden], what a branch has made; sum, and with three branches middle: where branches have norms
  //   head       its products' weights; logits, best_value and best [grid] as StoreLogits has them
  //   layer[]    qkv, out, gate_up, down, perhaps gate and proj: norm, post (the norm of the branch that it adds) and scale
  //              (of that sum) where there are any, bias[] of the matrices that have one, plane[], of gate `up`, f32, what
  //              it multiplies; attention: q_norm, k_norm, if heads have norms or q and k have, sinks, if heads have
  //              them, and its own cache and table, if there are not those of all. In a check build each has `copy`, where the values of its vector
  //              stay, and `sum_copy` if it keeps a sum. What some layers have fewer of is filled up, and not read.
  using Args = Pointers;
  using Attend = typename L::template At<L::kAttention>;
  static constexpr int kWarps = C.warps;
  static constexpr int kGrid = C.grid;
  static constexpr int kTableEntries = Attend::kConfig.table_blocks * Attend::kConfig.block_groups;  // of a sequence
  using Cta = FirstWarps<C.warps>;
  static constexpr LogitsConfig kLogits{
      .warps = C.warps, .biased = Head::kConfig.biased, .scale = Head::kConfig.scale, .cap = Head::kConfig.cap};
  using Logits = StoreLogits<kLogits, Cta>;
  using Count = TapeCount<C.grid, C.warps>;
  static constexpr int kLayers = L::kLayers;
  static constexpr int kThreads = (C.warps + 1) * kWarp;

  static_assert(sizeof(Args::layer) / sizeof(Args::layer[0]) == kLayers, "the arguments are those of other layers");
  using Layer = std::remove_cvref_t<decltype(Args::layer[0])>;
  static constexpr bool kCopied = requires(Layer layer) { layer.qkv.copy; };
  using Publishes = Published<kCopied>;
  // Whether layers have qkv, attention, gated and extra in several lengths, each of which has words of its own: a word that
  // only some layers wrote would not bear every second layer's tag.
  static constexpr bool kVaries = requires(Layer layer) { layer.vectors; };

  static constexpr int kSlotBytes = L::kTileBytes > Head::kTileBytes ? L::kTileBytes : Head::kTileBytes;
  static constexpr int kHeadBytes = Head::kScratchBytes + Logits::kSharedBytes;
  static constexpr int kScratchBytes = L::kScratchBytes > kHeadBytes ? L::kScratchBytes : kHeadBytes;
  using Ring = Tape<C.slots, kSlotBytes, C.in_flight>;
  // What the warps of the CTA share: registers that hold it all the while would spill.
  struct Shared {
    std::uint32_t done;  // warps, in phases so far
    std::int32_t slot;
    std::int32_t position;
    std::uint32_t turn;  // layers of all steps before
    float2 angles[Attend::kAngles][Attend::kPairs];  // at the step's position
  };
  static constexpr int kShared = Ring::kSharedBytes + kScratchBytes;
  static constexpr int kOdd = kShared + round_up(sizeof(Shared), 16);
  static constexpr int kSharedBytes = kOdd + (kVaries ? round_up(kLayers * 2, 16) : 0);
  static_assert(C.lanes <= C.in_flight && C.lanes <= C.slots, "each lane looks at another slot");
  static_assert(Ring::safe(C.warps), "the ring is too short for its warps and for what is in flight");

  // The order of a phase's tiles.
  template <class Units>
  struct Shape {
    using Work = WarpUnits<Units, ceil_div(ceil_div(Units::kUnits, C.grid), C.warps)>;
    using Sweeps = TapeSweeps<C.warps, Units::kTiles>;
    static constexpr bool kSweeps = Work::kMaySweep && Ring::safe(Sweeps::lead(Units::kUnits / C.grid)) &&
                                    Ring::safe(Sweeps::lead(ceil_div(Units::kUnits, C.grid)));
  };
  template <class Units>
  using Order = std::conditional_t<Shape<Units>::kSweeps, TapeSweeps<C.warps, Units::kTiles>,
                                   TapeRounds<C.warps, Units::kTiles>>;

  // Whether a phase multiplies with the first turns of its vector before the phase before is known to be complete.
  template <class Phase>
  static constexpr bool kBeginsEarly =
      Phase::kConfig.first_turns > 0 && Phase::Matrices::all([]<class Units>(Units*) { return Shape<Units>::kSweeps; });
  // The encoder's other turns follow when the tiles are multiplied that the first ones are enough for: `Tiles` of a unit.
  template <int Tiles, class Rest>
  struct InTwo : Activations<FloatActivations> {
    static_assert(Tiles > 0, "the first turns must be enough for a tile");
    const Rest& rest;
    __device__ __forceinline__ void reach(int k) const {
      if (k == Tiles) rest();
    }
  };

  // Layer l's part of the cache and its blocks, of a sequence whose block table begins with the entry `first`.
  template <class Heads>
  static __device__ __forceinline__ typename Heads::Core::Args cached(const Args& args, int l, int first) {
    if constexpr (requires { args.cache; }) {
      return {nullptr, nullptr, args.cache + static_cast<std::size_t>(l) * C.layer_bytes, args.table + first};
    } else {
      const auto& at = args.layer[l].attention;
      return {nullptr, nullptr, at.cache, at.table + first};
    }
  }

  static __device__ __forceinline__ void run(const Args& args) {
    grid_launch_next();
    std::uint8_t* shared = shared_memory();
    Ring ring(shared);
    block_sync();
    if (warp_index() == C.warps) {
      StepFetcher<Pointers, C, L, Head> fetcher{args, ring};
      fetcher.run();
    } else {
      grid_wait();
      Worker worker(args, ring, shared);
      worker.run();
    }
  }

 private:
  struct Worker {
    const Args& args;
    Ring& ring;
    std::uint8_t* scratch;
    Shared& shared;
    Count count{};

    __device__ __forceinline__ Worker(const Args& a, Ring& r, std::uint8_t* memory)
        : args(a), ring(r), scratch(memory + Ring::kSharedBytes), shared(*reinterpret_cast<Shared*>(memory + kShared)) {
      const int slot = args.rows[0].slot;
      const int position = args.positions[slot];
      if (thread_index() == 0) {
        shared.done = 0;
        shared.slot = slot;
        shared.position = position;
        shared.turn = load_fresh(args.counters);
      }
      if constexpr (kVaries) {
        const std::uint32_t steps = load_fresh(args.counters + 1);
        for (int l = thread_index(); l < kLayers; l += C.warps * kWarp) {
          unsigned bits = odd<Vector::qkv>(l, steps) | odd<Vector::attention>(l, steps) | odd<Vector::gated>(l, steps);
          if constexpr (L::writes(Vector::extra) > 0) bits |= odd<Vector::extra>(l, steps);
          odd_of()[l] = static_cast<std::uint16_t>(bits);
        }
      }
      if constexpr (Attend::Turns::kCount > 0) {
        for (int pair = thread_index(); pair < Attend::Turns::kPairs; pair += C.warps * kWarp) {
#pragma unroll
          for (int t = 0; t < Attend::kAngles; t++) {
            const RopeTable table = Attend::Turns::at(t);
            if (t == Attend::Turns::kCount) {
              shared.angles[t][pair] = make_float2(1, 0);
            } else if (pair < table.pairs) {
              shared.angles[t][pair] = rope_angle(args.turns[t], pair, position, table.magnitude);
            }
          }
        }
      }
      Cta::sync();
    }

    __device__ __forceinline__ void run() {
      for (int l = 0; l < kLayers; l++) {
        L::each([&]<int I>() { phase<I>(l); });
      }
      Logits epilogue(logits(), scratch + Head::kScratchBytes);
      multiply<Head, 0>(kLayers, args.head, epilogue);
      epilogue.finish();
      // Everybody has read it long ago: this CTA has heard from all.
      if (block_index() == 0 && thread_index() == 0) {
        store_fresh(args.counters, turn(kLayers));
        if constexpr (kVaries) store_fresh(args.counters + 1, load_fresh(args.counters + 1) + 1);
      }
    }

    __device__ __forceinline__ typename Logits::Args logits() const {
      typename Logits::Args to{.logits = args.head.logits, .best_value = args.head.best_value, .best = args.head.best, .bias = {}};
      if constexpr (Head::kConfig.biased != 0) to.bias.of[0] = args.head.bias[0];
      return to;
    }

    // A phase of layer l, and if the next one waits for a counter, the word that it is done.
    template <int I>
    __device__ __forceinline__ void phase(int l) {
      using Phase = typename L::template At<I>;
      if constexpr (Phase::kAttends) {
        attend<I>(l);
      } else {
        using Flow = typename Phase::Flow;
        const auto& at = Phase::of(args.layer[l]);
        const auto to = published(words<Flow::kTo>(l), written<Flow::kTo, I, Flow::kKept == Flow::kTo>(l), at);
        if constexpr (Flow::kAdds) {
          PublishSum<Phase::kConfig.biased, Phase::kConfig.scale, kCopied> sum{to, bias_of(at)};
          multiply<Phase, I>(l, at, sum);
        } else if constexpr (requires { at.up; }) {
          PublishGated<Phase::kConfig.biased, typename Phase::Gate, kCopied> gated{to, bias_of(at), at.up};
          multiply<Phase, I>(l, at, gated);
        } else {
          PublishRows<Phase::kConfig.biased, kCopied> rows{to, bias_of(at)};
          multiply<Phase, I>(l, at, rows);
        }
      }
      if constexpr (!L::template At<(I + 1) % L::kCount>::kAttends) arrive(I);
    }

    template <Vector V>
    __device__ __forceinline__ std::uint32_t* words(int l) const {
      if constexpr (V == Vector::x) return args.x;
      if constexpr (V == Vector::sum) return args.sum;
      if constexpr (V == Vector::middle) return args.middle;
      if constexpr (V == Vector::branch) return args.branch;
      const auto& vectors = vectors_of(l);
      if constexpr (V == Vector::qkv) return vectors.qkv;
      if constexpr (V == Vector::attention) return vectors.attention;
      if constexpr (V == Vector::gated) return vectors.gated;
      if constexpr (V == Vector::extra) return vectors.extra;
    }
    __device__ __forceinline__ const auto& vectors_of(int l) const {
      if constexpr (kVaries) {
        return args.layer[l].vectors;
      } else {
        return args;
      }
    }
    // The tag of a vector once layer l has written it `Times` times. All words are zero at first.
    template <Vector V, int Times>
    __device__ __forceinline__ std::uint32_t tag(int l) const {
      if constexpr (L::writes(V) % 2 == 0) {
        return Times % 2;
      } else if constexpr (kVaries && (V == Vector::qkv || V == Vector::attention || V == Vector::gated || V == Vector::extra)) {
        return (static_cast<std::uint32_t>(odd_of()[l]) >> static_cast<int>(V) ^ Times) & 1u;
      } else {
        return ((V == Vector::x ? static_cast<std::uint32_t>(l) : turn(l)) + Times) & 1u;
      }
    }
    // Of each layer, bit V: whether those before have written its words of vector V an odd number of times.
    __device__ __forceinline__ std::uint16_t* odd_of() const {
      return reinterpret_cast<std::uint16_t*>(scratch + (kOdd - Ring::kSharedBytes));
    }
    // Whether the layers before layer l, of this step and of all before, have written its words of a vector an odd number of
    // times: one each.
    template <Vector V>
    __device__ __forceinline__ unsigned odd(int l, std::uint32_t steps) const {
      static_assert(L::writes(V) == 1, "a layer writes a vector of several lengths once");
      std::uint32_t times = 0;
      for (int other = 0; other < kLayers; other++) {
        if (words<V>(other) == words<V>(l)) times += steps + (other < l ? 1 : 0);
      }
      return (times & 1u) << static_cast<int>(V);
    }
    // As phase I of layer l finds it, and as it leaves it.
    template <Vector V, int I>
    __device__ __forceinline__ TaggedInput input(int l) const {
      return {words<V>(l), tag<V, L::writes_before(V, I)>(l)};
    }
    template <Vector V, int I, bool Again = false>
    __device__ __forceinline__ std::uint32_t written(int l) const {
      return tag<V, L::writes_before(V, I) + 1 + Again>(l);
    }

    // (x + rms_norm(branch) * weight) * scale, which goes to `sum` with its own tag.
    struct Sum {
      TaggedInput x;
      TaggedInput branch;
      bool added;  // there is no branch yet: 0
      const float* weight;
      const float* scale;  // of the sum, or null
      Published<kCopied> sum;  // or null
      template <int N>
      __device__ __forceinline__ void read(float4 (&v)[N], const int (&at)[N]) const {
        int some[N];
#pragma unroll
        for (int i = 0; i < N; i++) some[i] = added ? at[i] : -1;
        branch.read(v, some);
      }
    };
    // What phase I of layer l encodes.
    template <class Flow, int I, class Product>
    __device__ __forceinline__ auto encoded(int l, const Product& at) const {
      if constexpr (Flow::kBranch == Vector::none) {
        return input<Flow::kFrom, I>(l);
      } else if constexpr (Flow::kKept == Vector::none) {
        return Sum{input<Flow::kFrom, I>(l), input<Flow::kBranch, I>(l), true, at.post, scale_of(at), {nullptr, 0, nullptr}};
      } else {
        const bool added = L::writes_before(Flow::kBranch, I) > 0 || l > 0;
        const auto kept = published_sum(words<Flow::kKept>(l), written<Flow::kKept, I>(l), at);
        return Sum{input<Flow::kFrom, I>(l), input<Flow::kBranch, I>(l), added, at.post, scale_of(at), kept};
      }
    }

    // Layers of all steps before this step's layer l.
    __device__ __forceinline__ std::uint32_t turn(int l) const { return shared.turn + static_cast<std::uint32_t>(l); }

    // Waits until the counters say that the phase before has probably been done by every CTA, encodes the input,
    // multiplies.
    template <class Phase, int I, class Product, class Epilogue>
    __device__ __forceinline__ void multiply(int l, const Product& at, Epilogue& epilogue) {
      static_assert(Phase::kEncode.warps == C.warps, "the encoder works with the warps that compute");
      static_assert(fits<Phase, Product>(), "the arguments have other norms or biases than the phase");
      constexpr int kBefore = (I + L::kCount - 1) % L::kCount;
      const std::uint32_t times = turn(I > 0 ? l + 1 : l);
      const auto input = encoded<typename Phase::Flow, I>(l, at);
      const float* norm = norm_of(at);
      TapeShare s;
      Phase::Matrices::with(l, [&]<class Units>() {
        s = count.template next<Units::kUnits, Units::kTiles>();
        if constexpr (Epilogue::kReads > 0) {
#pragma unroll
          for (int i = 0; i < Epilogue::kReads; i++) {
            epilogue.read(i, Units::row(s.first + (own(s) + i * C.warps) * C.grid));
          }
        }
      });
      const auto wait = [&] {
        if (thread_index() == 0) {
          const std::uint32_t target = times * C.grid - Phase::kConfig.early;
          Poll poll("arrivals at", kBefore);
          while (static_cast<int>(load_fresh(args.counters + (kBefore + 1) * 32) - target) < 0) poll.pause();
        }
        Cta::sync();
      };
      if constexpr (kBeginsEarly<Phase>) {
        using Encode = Encoder<Phase::kEncode, Cta>;
        constexpr int kFirst = Phase::kConfig.first_turns;
        Cta::sync();  // nobody reads the vector before any more
        Encode::template encode_turns<0, kFirst>(input, scratch);
        Cta::sync();
        const auto rest = [&] {
          wait();
          Encode::template encode_turns<kFirst, Encode::kRounds>(input, scratch);
          Cta::sync();
        };
        Phase::Matrices::with(l, [&]<class Units>() {
          constexpr int kTiles = kFirst * Encode::kStride / Units::First::Layout::kTile.cols;
          InTwo<kTiles, decltype(rest)> x{{Encode::q8(scratch), Encode::halfs(scratch), Encode::dense(scratch), 1.0f}, rest};
          work<Units>(s, x, epilogue);
        });
        return;
      }
      Activations<FloatActivations> x{};
      Phase::Encoders::with(l, [&]<class OfLength>() {
        using Encode = Encoder<OfLength::kConfig, Cta>;
        float scale;
        if constexpr (Phase::kEncode.post) {
          typename Encode::Weights weights = Encode::weights(norm, input.weight, input.scale);
          if (!input.added) weights.scale = 1.0f;
          const typename Encode::Columns old = Encode::columns(input.x);  // made by a phase long past
          wait();
          const auto keep = [&](int k, float4 v) {
            if (input.sum.words != nullptr && k / 128 % C.grid == block_index()) input.sum.put4(k, v);
          };
          scale = Encode::run_sum(old, input, weights, keep, scratch);
        } else {
          const typename Encode::Weights weights = Encode::weights(norm);
          wait();
          scale = Encode::run(input, weights, scratch);
        }
        x = {Encode::q8(scratch), Encode::halfs(scratch), Encode::dense(scratch), scale};
      });
      Phase::Matrices::with(l, [&]<class Units>() { work<Units>(s, x, epilogue); });
    }

    template <class Units, class X, class Epilogue>
    __device__ __forceinline__ void work(const TapeShare& s, X& x, Epilogue& epilogue) {
      Tiles<Order<Units>> tiles{ring, {s.tile, s.units}, own(s), s.first};
      Shape<Units>::Work::template run<Shape<Units>::kSweeps>(tiles.count(), tiles, x, epilogue);
    }
    // This warp's units of a phase.
    template <class Order>
    struct Tiles {
      Ring& ring;
      Order order;
      int own;    // its first among the CTA's
      int first;  // of the CTA's among all
      __device__ __forceinline__ int count() const { return (order.units - own + C.warps - 1) / C.warps; }
      __device__ __forceinline__ int unit(int i) const { return first + at(i) * C.grid; }
      __device__ __forceinline__ std::uint8_t* take(int i, int k) { return ring.take(order.index(at(i), k)); }
      __device__ __forceinline__ void release(int i, int k) { ring.release(order.index(at(i), k)); }
      __device__ __forceinline__ TapeCursor<Ring> rest(int i) { return {ring, order, at(i)}; }
      __device__ __forceinline__ int at(int i) const { return own + i * C.warps; }
    };
    // The first unit of this warp.
    static __device__ __forceinline__ int own(const TapeShare& s) { return (warp_index() - s.warp + C.warps) % C.warps; }

    // The last warp of the CTA to come here counts the CTA.
    __device__ __forceinline__ void arrive(int phase) {
      warp_sync();
      if (lane_index() != 0) return;
      if (atomic_add(&shared.done, 1u) % C.warps == C.warps - 1) add_fresh(args.counters + (phase + 1) * 32, 1);
    }

    template <int I>
    __device__ __forceinline__ void attend(int l) {
      using Flow = typename Attend::Flow;
      const TaggedInput qkv = input<Flow::kFrom, I>(l);
      const auto to = attended_to(l, words<Flow::kTo>(l), written<Flow::kTo, I>(l));
      Attend::Kinds::with(l, [&]<class Heads>() {
        using Attending = StepAttend<Step, Heads, Cta>;
        auto a = cached<Heads>(args, l, shared.slot * kTableEntries);
        take_weights<Heads>(a, args.layer[l]);
        const typename Attending::Angles angles{shared.angles[Attend::table(l)]};
        Attending{args, ring, scratch, shared, l}.run(a, qkv, angles, to, count.tile);
      });
    }

    template <class Heads>
    static __device__ __forceinline__ void take_weights(typename Heads::Core::Args& a, const auto& layer) {
      if constexpr (Heads::kConfig.qk_norm) {
        a.q_weight = layer.attention.q_norm;
        a.k_weight = layer.attention.k_norm;
      }
      if constexpr (Heads::kConfig.sinks) a.sinks = layer.attention.sinks;
    }
    __device__ __forceinline__ Publishes attended_to(int l, std::uint32_t* to, std::uint32_t tag) const {
      if constexpr (kCopied) {
        return published(to, tag, args.layer[l].attention);
      } else {
        return {to, tag, nullptr};
      }
    }
  };
};

}  // namespace imp
