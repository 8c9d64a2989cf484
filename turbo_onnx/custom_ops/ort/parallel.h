// The one way in which a kernel uses more than one core: a loop on ONNX Runtime's own thread pool.
//
// Kernels see nothing else of ONNX Runtime, so they can be called, tested and timed without it.
#pragma once

#include <cstddef>
#include <type_traits>

namespace turbo_onnx {

// Runs body(i) for every i in [0, total); blocks until all are done. Which thread runs which index, and in what
// order, is not defined, and how many threads there are cannot be known: cut work into items of about 64 KB.
// The body must not throw.
struct Parallel {
  void* context;
  void (*dispatch)(void* context, void (*body)(void* user, size_t index), size_t total, void* user);

  template <class F>
  void operator()(size_t total, F&& f) const {
    if (total <= 1) {
      if (total == 1) f(size_t{0});
      return;
    }
    using Body = std::remove_reference_t<F>;
    const void* address = &f;
    dispatch(
        context, [](void* user, size_t index) { (*static_cast<Body*>(user))(index); }, total,
        const_cast<void*>(address));
  }
};

}  // namespace turbo_onnx
