// oneDNN's convolutions, float32 and bfloat16, as XLA FFI targets for the CPU.
//
// Images are NHWC, kernels HWIO, both dense. A grouped kernel is (h, w, i, g * o): oneDNN
// sees it as (g, o, i, h, w) through its strides, and reorders it into the layout that
// its fastest implementation wants, once a call.

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <exception>
#include <future>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include "oneapi/dnnl/dnnl.hpp"
#include "xla/ffi/api/ffi.h"

// Of OpenMP's runtime, which oneDNN brings; they count for the calling thread alone.
extern "C" int omp_get_max_threads();
extern "C" void omp_set_num_threads(int threads);

namespace ffi = xla::ffi;

namespace {

using Buffer = ffi::AnyBuffer;
using Result = ffi::Result<Buffer>;
using Dims = dnnl::memory::dims;
using Desc = dnnl::memory::desc;

enum Kind : int64_t { kForward, kInputGradient, kKernelGradient };

// Strides, top, bottom, left, right padding, dilation, groups: as `Geometry` in Python.
constexpr size_t kGeometry = 9;
constexpr size_t kCached = 1024;
constexpr size_t kRoom = 8 << 20;

// Kind, three shapes, geometry, element type.
using Key = std::array<int64_t, 1 + 3 * 4 + kGeometry + 1>;

struct Tensor {
  void* data;
  ffi::DataType type;
  ffi::Span<const int64_t> dims;
};

void Check(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

// Grows and stays: fresh pages at each call would cost more than the arithmetic.
class Arena {
 public:
  void* Get(size_t bytes) {
    if (bytes > size_) {
      data_.reset();
      size_ = 0;
      data_.reset(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
      if (!data_) throw std::bad_alloc();
      size_ = bytes;
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };
  std::unique_ptr<void, Free> data_;
  size_t size_ = 0;
};

// One prepared convolution: its primitive, and the kernel's reorder where one is needed.
//
// Where oneDNN's threads share out the channels of a bfloat16 kernel's gradient, they
// wait for one another at every image, spinning: on a machine that does other work too
// that was eight times the CPU time. So there each thread takes its part of the batch
// alone, and the parts' gradients, in float32, are added up. The first parts have one
// image more where the batch is no multiple of the threads; a batch of fewer images
// than threads is left to oneDNN, which waits as often as there are images.
class Convolution {
 public:
  Convolution(const dnnl::engine& engine, const Key& key) : kind_(Kind(key[0])) {
    const int64_t *x = &key[1], *w = &key[5], *y = &key[9], *g = &key[13];
    const int64_t groups = g[8], cin = w[2], cout = w[3] / groups;
    const auto type = ffi::DataType(key[22]) == ffi::BF16 ? dnnl::memory::data_type::bf16
                                                          : dnnl::memory::data_type::f32;
    const auto nhwc = dnnl::memory::format_tag::nhwc;
    const auto any = dnnl::memory::format_tag::any;
    const bool narrow = type == dnnl::memory::data_type::bf16;
    const int threads = omp_get_max_threads();
    const bool split = narrow && kind_ == kKernelGradient && x[0] >= threads;
    const int parts = split ? threads : 1;
    Dims dims{cout, cin, w[0], w[1]};
    Dims strides{1, w[3], w[1] * cin * w[3], cin * w[3]};
    if (groups > 1) {
      dims.insert(dims.begin(), groups);
      strides.insert(strides.begin(), cout);
    }
    kernel_ = Desc(dims, type, strides);
    inner_ = Desc(
        dims, kind_ == kKernelGradient ? dnnl::memory::data_type::f32 : type, any);
    const Dims step{g[0], g[1]}, low{g[2], g[4]}, high{g[3], g[5]};
    const Dims dilation{g[6] - 1, g[7] - 1};
    const auto algorithm = dnnl::algorithm::convolution_direct;
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const Threads limit(parts > 1 ? 1 : threads);
    for (int i = 0; i < parts; ++i) {
      const int64_t images = x[0] / parts + (i < x[0] % parts);
      if (i > 0 && images == parts_.back().source.get_dims()[0]) {
        parts_.push_back(parts_.back());
        continue;
      }
      Part part;
      part.source = Desc({images, x[3], x[1], x[2]}, type, nhwc);
      part.target = Desc({images, y[3], y[1], y[2]}, type, nhwc);
      const dnnl::convolution_forward::primitive_desc forward(
          engine,
          kind_ == kForward ? dnnl::prop_kind::forward_inference
                            : dnnl::prop_kind::forward_training,
          algorithm, part.source, kind_ == kForward ? inner_ : Desc(dims, type, any),
          part.target, step, dilation, low, high, attr);
      if (kind_ == kForward) {
        Prepare(part, forward, forward.weights_desc());
        part.primitive = dnnl::convolution_forward(forward);
      } else if (kind_ == kInputGradient) {
        const dnnl::convolution_backward_data::primitive_desc backward(
            engine, algorithm, part.source, inner_, part.target, step, dilation, low,
            high, forward, attr);
        Prepare(part, backward, backward.weights_desc());
        part.primitive = dnnl::convolution_backward_data(backward);
      } else {
        const dnnl::convolution_backward_weights::primitive_desc backward(
            engine, algorithm, part.source, inner_, part.target, step, dilation, low,
            high, forward, attr);
        Prepare(part, backward, backward.diff_weights_desc());
        part.primitive = dnnl::convolution_backward_weights(backward);
      }
      parts_.push_back(part);
    }
    if (inner_ != kernel_) {
      const bool out = kind_ == kKernelGradient;
      dnnl::primitive_attr attr;
      attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
      const dnnl::reorder::primitive_desc reorder(engine, out ? inner_ : kernel_, engine,
                                                  out ? kernel_ : inner_, attr);
      reorder_scratch_ = reorder.scratchpad_desc();
      reorder_ = dnnl::reorder(reorder);
    }
  }

  void Run(const dnnl::engine& engine, dnnl::stream& stream, Arena& arena, void* x,
           void* w, void* y) const {
    const int parts = int(parts_.size());
    const size_t kernel = inner_ != kernel_ ? Round(inner_.get_size()) : 0;
    const size_t work = Round(work_);
    char* base = static_cast<char*>(arena.Get(
        parts * kernel + std::max(parts * work, Round(reorder_scratch_.get_size()))));
    char* room = base + parts * kernel;
    const dnnl::memory outer(kernel_, engine, w);
    const dnnl::memory inner(inner_, engine, kernel ? base : w);
    const dnnl::memory reorder_scratch(reorder_scratch_, engine, room);
    if (kernel && kind_ != kKernelGradient) {
      reorder_.execute(stream, {{DNNL_ARG_FROM, outer},
                                {DNNL_ARG_TO, inner},
                                {DNNL_ARG_SCRATCHPAD, reorder_scratch}});
    }
    const auto run = [&](int i, char* images, char* results) {
      const Part& part = parts_[i];
      // Without it some implementations start a team of their own in every part.
      const Threads limit(parts > 1 ? 1 : omp_get_max_threads());
      const dnnl::memory source(part.source, engine, images);
      const dnnl::memory target(part.target, engine, results);
      const dnnl::memory own(inner_, engine, kernel ? base + i * kernel : w);
      const dnnl::memory scratch(part.scratch, engine, room + i * work);
      dnnl::stream alone(engine);
      part.primitive.execute(
          i ? alone : stream,
          {{kind_ == kInputGradient ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, source},
           {kind_ == kKernelGradient ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, own},
           {kind_ == kForward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, target},
           {DNNL_ARG_SCRATCHPAD, scratch}});
      alone.wait();
    };
    {
      char *images = static_cast<char*>(x), *results = static_cast<char*>(y);
      std::vector<std::future<void>> others;
      for (int i = 1; i < parts; ++i) {
        images += parts_[i - 1].source.get_size();
        results += parts_[i - 1].target.get_size();
        others.push_back(std::async(std::launch::async, run, i, images, results));
      }
      run(0, static_cast<char*>(x), static_cast<char*>(y));
      for (auto& other : others) other.get();
    }
    const size_t numbers = inner_.get_size() / sizeof(float);
    for (int i = 1; i < parts; ++i) {
      float* sum = reinterpret_cast<float*>(base);
      const float* more = reinterpret_cast<const float*>(base + i * kernel);
      for (size_t j = 0; j < numbers; ++j) sum[j] += more[j];
    }
    if (kernel && kind_ == kKernelGradient) {
      reorder_.execute(stream, {{DNNL_ARG_FROM, inner},
                                {DNNL_ARG_TO, outer},
                                {DNNL_ARG_SCRATCHPAD, reorder_scratch}});
    }
    stream.wait();
  }

 private:
  // What one thread computes, or all of them together.
  struct Part {
    Desc source, target, scratch;
    dnnl::primitive primitive;
  };

  // The threads for which oneDNN prepares and with which it computes, for as long as this lives.
  struct Threads {
    explicit Threads(int count) { omp_set_num_threads(count); }
    ~Threads() { omp_set_num_threads(before); }
    const int before = omp_get_max_threads();
  };

  static size_t Round(size_t bytes) { return (bytes + 63) / 64 * 64; }

  // All parts have the kernel as the first one wants it.
  void Prepare(Part& part, const dnnl::primitive_desc_base& desc, const Desc& inner) {
    inner_ = inner;
    part.scratch = desc.scratchpad_desc();
    work_ = std::max(work_, part.scratch.get_size());
  }

  Kind kind_;
  std::vector<Part> parts_;
  size_t work_ = 0;
  Desc kernel_, inner_, reorder_scratch_;
  dnnl::reorder reorder_;
};

// All calls run on one thread of its own, in turn: each uses all the cores, and OpenMP
// keeps a team of threads for every thread that ever called it, of which XLA has many.
class Session {
 public:
  static Session& Get() {
    // Never destroyed: XLA's threads may outlive this library's statics.
    static Session* session = new Session;
    return *session;
  }

  void Run(const Key& key, void* x, void* w, void* y) {
    Call call{key, x, w, y, nullptr, false};
    std::unique_lock<std::mutex> lock(mutex_);
    calls_.push_back(&call);
    lock.unlock();
    arrived_.notify_one();
    lock.lock();
    done_.wait(lock, [&] { return call.done; });
    if (call.error) std::rethrow_exception(call.error);
  }

 private:
  struct Call {
    const Key& key;
    void *x, *w, *y;
    std::exception_ptr error;
    bool done;
  };

  Session() {
    std::thread([this] { Work(); }).detach();
  }

  void Work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      arrived_.wait(lock, [&] { return !calls_.empty(); });
      Call& call = *calls_.front();
      calls_.pop_front();
      lock.unlock();
      try {
        Find(call.key).Run(engine_, stream_, arena_, call.x, call.w, call.y);
      } catch (...) {
        call.error = std::current_exception();
      }
      lock.lock();
      call.done = true;
      done_.notify_all();
    }
  }

  const Convolution& Find(const Key& key) {
    const auto found = where_.find(key);
    if (found != where_.end()) {
      recent_.splice(recent_.begin(), recent_, found->second);
      return recent_.front().second;
    }
    // Some of oneDNN's implementations run code that they had no memory to write.
    void* room = mmap(nullptr, kRoom, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) throw std::bad_alloc();
    munmap(room, kRoom);
    recent_.emplace_front(key, Convolution(engine_, key));
    where_[key] = recent_.begin();
    if (recent_.size() > kCached) {
      where_.erase(recent_.back().first);
      recent_.pop_back();
    }
    return recent_.front().second;
  }

  std::mutex mutex_;
  std::condition_variable arrived_, done_;
  std::deque<Call*> calls_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  Arena arena_;
  std::list<std::pair<Key, Convolution>> recent_;
  std::map<Key, std::list<std::pair<Key, Convolution>>::iterator> where_;
};

// oneDNN's enumeration is a set of bits: each instruction set has those it includes.
bool HasBfloat16() {
  const int needed = int(dnnl::cpu_isa::avx512_core_bf16);
  return (int(dnnl::get_effective_cpu_isa()) & needed) == needed;
}

// A wrong shape would have oneDNN read past a buffer: everything is checked first.
ffi::Error Convolve(Kind kind, ffi::Span<const int64_t> geometry, Tensor x, Tensor w,
                    Tensor y) {
  try {
    Check(geometry.size() == kGeometry, "geometry must be nine integers");
    Key key;
    key[0] = kind;
    size_t next = 1;
    for (const Tensor& tensor : {x, w, y}) {
      Check(tensor.dims.size() == 4, "images and kernels must have four axes");
      for (const int64_t size : tensor.dims) {
        Check(size > 0, "no axis may be empty");
        key[next++] = size;
      }
    }
    for (const int64_t value : geometry) key[next++] = value;
    Check(x.type == ffi::F32 || (x.type == ffi::BF16 && HasBfloat16()),
          "computes in float32, and in bfloat16 where the processor does");
    Check(x.type == w.type && x.type == y.type, "operands and result differ in dtype");
    key[next] = int64_t(x.type);
    const int64_t* g = &key[13];
    const int64_t groups = g[8];
    Check(g[0] > 0 && g[1] > 0 && g[6] > 0 && g[7] > 0 && groups > 0,
          "strides, dilation and groups must be positive");
    Check(g[2] >= 0 && g[3] >= 0 && g[4] >= 0 && g[5] >= 0,
          "padding must not be negative");
    Check(x.dims[0] == y.dims[0], "input and output differ in batch size");
    Check(x.dims[3] == w.dims[2] * groups && w.dims[3] == y.dims[3] &&
              w.dims[3] % groups == 0,
          "channels of input, kernel and output do not agree");
    for (int i = 0; i < 2; ++i) {
      const int64_t extent = (w.dims[i] - 1) * g[6 + i] + 1;
      const int64_t room = x.dims[1 + i] + g[2 + 2 * i] + g[3 + 2 * i] - extent;
      Check(room >= 0 && room / g[i] + 1 == y.dims[1 + i],
            "the output does not have the size of this convolution");
    }
    Session::Get().Run(key, x.data, w.data, y.data);
    return ffi::Error::Success();
  } catch (const std::invalid_argument& error) {
    return ffi::Error::InvalidArgument(std::string("convolution: ") + error.what());
  } catch (const std::exception& error) {
    return ffi::Error::Internal(std::string("oneDNN convolution: ") + error.what());
  }
}

Tensor Of(Buffer& buffer) { 
  return {buffer.untyped_data(), buffer.element_type(), buffer.dimensions()};
}
Tensor Of(Result& buffer) { 
  return {buffer->untyped_data(), buffer->element_type(), buffer->dimensions()};
}

ffi::Error Forward(ffi::Span<const int64_t> geometry, Buffer x, Buffer w, Result y) {
  return Convolve(kForward, geometry, Of(x), Of(w), Of(y));
}

ffi::Error InputGradient(ffi::Span<const int64_t> geometry, Buffer y, Buffer w,
                         Result x) {
  return Convolve(kInputGradient, geometry, Of(x), Of(w), Of(y));
}

ffi::Error KernelGradient(ffi::Span<const int64_t> geometry, Buffer x, Buffer y,
                          Result w) {
  return Convolve(kKernelGradient, geometry, Of(x), Of(w), Of(y));
}

auto Bind() {
  return ffi::Ffi::Bind()
      .Attr<ffi::Span<const int64_t>>("geometry")
      .Arg<Buffer>()
      .Arg<Buffer>()
      .Ret<Buffer>();
}

}  // namespace

// Computes once, so that OpenMP has its threads and oneDNN the code by which they wait
// for one another: with little memory left, neither would come, and the process would
// end there and then. Returns whether that went well.
extern "C" int JaxvisionWarmUp() {
  try {
    const Key key{kForward, 8, 16, 16, 32, 3, 3, 32, 32, 8, 16, 16, 32,
                  1, 1, 1, 1, 1, 1, 1, 1, 1, int64_t(ffi::F32)};
    std::vector<float> x(8 * 16 * 16 * 32), y(x.size()), w(3 * 3 * 32 * 32);
    for (const Kind kind : {kForward, kInputGradient, kKernelGradient}) {
      Key one = key;
      one[0] = kind;
      Session::Get().Run(one, x.data(), w.data(), y.data());
    }
    return 1;
  } catch (const std::exception&) {
    return 0;
  }
}

// Whether bfloat16 is multiplied by instructions of its own here; where it is not,
// oneDNN would have to widen it first.
extern "C" int JaxvisionHasBfloat16() { return HasBfloat16(); }

XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxvisionForward, Forward, Bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxvisionInputGradient, InputGradient, Bind());
XLA_FFI_DEFINE_HANDLER_SYMBOL(JaxvisionKernelGradient, KernelGradient, Bind());
