// The layer between MLX and the library: a primitive that runs a kernel on the CPU stream.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/types.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/mlx.h"
#include "mlx/primitives.h"

namespace vlm::bind {

namespace mx = mlx::core;
namespace nb = nanobind;

using Arrays = std::vector<mx::array>;

// A primitive whose transformations are those of `definition`, the same op in MLX's ops (or in further kernels).
class Kernel : public mx::Primitive {
 public:
  using Definition = std::function<Arrays(const Arrays&)>;

  Kernel(mx::Stream stream, Definition definition) : Primitive(stream), definition_(std::move(definition)) {}

  void eval_gpu(const Arrays&, Arrays&) override { throw std::runtime_error("the native kernels of vlm-kernels run on the CPU only"); }
  std::vector<mx::array> vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& arguments, const Arrays&) override;
  std::vector<mx::array> jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& arguments) override;
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override;

 protected:
  Definition definition_;
};

mx::Stream current_stream();

// Of a floating array; throws for other dtypes.
Type type_of(const mx::array& array);
Type type_of(mx::Dtype dtype);
bool is_floating(const mx::array& array);

// Memory for an output.
void allocate(mx::array& array);

// The array itself if its rows are contiguous (or it is empty), else a copy that is made on the stream before what is dispatched next.
mx::array contiguous(const mx::array& array, mx::cpu::CommandEncoder& encoder);
// The same, but only the last axis must be contiguous.
mx::array contiguous_rows(const mx::array& array, mx::cpu::CommandEncoder& encoder);

// Product of the sizes of all axes but the last `kept`.
size_t leading(const mx::array& array, size_t kept);

// Registers the functions of one binding file with the module.
using Binder = void (*)(nb::module_&);
struct Binding {
  explicit Binding(Binder binder);
};

}  // namespace vlm::bind

#define VLM_BINDING(module)                              \
  static void vlm_bind(nb::module_&);                    \
  static const vlm::bind::Binding vlm_binding{vlm_bind}; \
  static void vlm_bind(nb::module_& module)
