// The golden vectors of tokenmerge in C++17, with nothing but the standard library (docs/vectors.md): a reader of JSON and
// one of safetensors. Both trust their files, which are ours. Little-endian machines, as the files are.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace golden {

inline std::string contents(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) throw std::runtime_error("cannot read " + path);
    return {std::istreambuf_iterator<char>(in), {}};
}

// A value: numbers, true (1), false (0) and null (not a number) are `number`, and the rest is what it says.
struct Json {
    double number = NAN;
    std::string text;
    std::vector<Json> items;
    std::vector<std::pair<std::string, Json>> fields;

    const Json* find(const std::string& name) const {
        for (auto& field : fields)
            if (field.first == name) return &field.second;
        return nullptr;
    }
    const Json& operator[](const std::string& name) const {
        if (auto found = find(name)) return *found;
        throw std::runtime_error("no " + name);
    }
    bool null() const { return std::isnan(number); }
};

class Parser {
    const char* at;

    bool skip(char wanted) {
        while (std::strchr(" \n\t\r", *at) && *at) at++;
        return *at == wanted && ++at;
    }
    std::string string() {
        std::string made;
        for (; *at != '"'; at++) made += *at == '\\' ? *++at : *at;  // the files escape quotes and backslashes only
        at++;
        return made;
    }

  public:
    explicit Parser(const std::string& text) : at(text.c_str()) {}

    Json value() {
        Json made;
        if (skip('"')) {
            made.text = string();
        } else if (skip('[')) {
            while (!skip(']')) made.items.push_back(value()), skip(',');
        } else if (skip('{')) {
            while (!skip('}')) {
                skip('"');
                std::string name = string();
                skip(':');
                made.fields.emplace_back(name, value()), skip(',');
            }
        } else if (*at == 't' || *at == 'f' || *at == 'n') {
            made.number = *at == 't' ? 1 : *at == 'f' ? 0 : NAN;
            at += *at == 'f' ? 5 : 4;
        } else {
            char* end;
            made.number = std::strtod(at, &end);
            if (end == at) throw std::runtime_error("not JSON: " + std::string(at).substr(0, 20));
            at = end;
        }
        return made;
    }
};

struct Tensor {
    std::vector<size_t> shape;
    std::vector<double> values;  // of any dtype: float32, int64 and uint8 all fit
};

class Tensors {
    std::string file;
    Json header;

    template <class T> std::vector<double> as(size_t begin, size_t count) const {
        std::vector<double> made(count);
        for (size_t i = 0; i < count; i++) {
            T value;
            std::memcpy(&value, file.data() + begin + i * sizeof(T), sizeof(T));
            made[i] = static_cast<double>(value);
        }
        return made;
    }

  public:
    explicit Tensors(const std::string& path) : file(contents(path)) {
        uint64_t length;
        std::memcpy(&length, file.data(), 8);
        header = Parser(file.substr(8, length)).value();
    }

    Tensor operator[](const std::string& name) const {
        const Json& entry = header[name];
        Tensor made;
        size_t count = 1;
        for (auto& axis : entry["shape"].items) made.shape.push_back(size_t(axis.number)), count *= made.shape.back();
        uint64_t length;
        std::memcpy(&length, file.data(), 8);
        size_t begin = 8 + length + size_t(entry["data_offsets"].items[0].number);
        const std::string& dtype = entry["dtype"].text;
        made.values = dtype == "F32"   ? as<float>(begin, count)
                      : dtype == "F64" ? as<double>(begin, count)
                      : dtype == "I64" ? as<int64_t>(begin, count)
                                       : as<uint8_t>(begin, count);
        return made;
    }
};

using Results = std::map<std::string, std::vector<double>>;

// Compares what a function gave for a case with what it had to give, in one precision, and says what differs.
inline bool check(const Json& one, const Tensors& tensors, const Results& got, const std::string& dtype) {
    size_t position = 0;  // of the precision in `dtypes`, and so in every `tolerance`
    while (one["dtypes"].items[position].text != dtype) position++;
    bool good = true;
    for (auto& [name, about] : one["expected"].fields) {
        auto found = got.find(name);
        if (found == got.end()) continue;  // a result that you do not have
        Tensor want = tensors[one["id"].text + "/expected/" + name];
        double tolerance = about.find("tolerance") ? about["tolerance"].items[position].number : 0;
        bool same = found->second.size() == want.values.size();
        size_t each = same && !want.shape.empty() && want.shape[0] ? want.values.size() / want.shape[0] : want.values.size();
        for (size_t i = 0; same && i < want.values.size(); i++) {
            bool compared = one["samples"].items.empty();
            for (auto& sample : one["samples"].items) compared |= size_t(sample.number) == i / each;
            same = !compared || std::fabs(found->second[i] - want.values[i]) <= tolerance;  // false for NaN as well
        }
        if (!same) std::printf("%s: %s differs (%s)\n", one["id"].text.c_str(), name.c_str(), one["about"].text.c_str());
        good &= same;
    }
    return good;
}

}  // namespace golden
