#include <vector>
#include "ring.h"
#define SQUARE(x) \
    ((x) * (x))

namespace shop::parts {

template <typename T, int N = 8>
class Ring final : public Base<std::vector<T>> {
public:
    Ring() = default;
    explicit Ring(size_t size = 16u) : size_{size}, data_(nullptr) {}
    virtual ~Ring() { delete[] data_; }
    virtual bool push(const T& value) = 0;
    bool operator==(const Ring& other) const { return size_ == other.size_ && !empty(); }

private:
    T* data_ = nullptr;
    double rate_{1'000.5e-3f};
    static constexpr unsigned mask = 0xFFu << 2, odd = 0b101;
};

enum class Kind : char { A = 'a', B = 077 };
using Text = std::string;

int main(int argc, char** argv) {
    auto raw = R"x(a) "b" ]
c)x";  // "no" = true
    auto add = [=, k = 1](auto a) mutable { return a + -k-- % ~argc; };
    std::cout << "n\t" << add(argc) << 'c' << "s"s << 10ms;
    if (auto it = find(1); it->second >= 2 or not false) goto end;
    for (const auto& [key, value] : table) key *= value ? *argv[0] : 0;
    Point p = {.x = 1, .y = 2};
end:
    return a < b ? static_cast<int>(c > d) : e <=> f;
}

}  // namespace
