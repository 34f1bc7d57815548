// A reader of streamtok's token streams by docs/wire-protocol.md alone: cppzmq, nlohmann-json (which knows
// msgpack), zlib, zstd.
#pragma once

#include <zlib.h>
#include <zstd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>
#include <zmq.hpp>
#include <zmq_addon.hpp>

namespace streamtok {

using Json = nlohmann::json;

constexpr size_t kMaxGrid = 4194304;  // elements of one grid
constexpr size_t kMaxHeader = 65536;  // bytes
constexpr int kHighWater = 64;

// One grid with its header. `decodable` is false from a loss, or from joining, until the next keyframe.
struct Message {
    Json header;
    std::vector<uint32_t> tokens;  // row-major; empty for a continuous stream
    std::vector<uint16_t> latent;  // float16 bits, of a continuous stream
    bool decodable = false;
    int64_t lost = 0;  // messages missing just before this one
};

struct Counts {
    long messages = 0, lost = 0, malformed = 0;
};

// Reads one stream of one node. `next` waits and returns nothing when the node has ended; it throws std::runtime_error for
// a stream that it cannot read. Messages that break the protocol are counted.
class Stream {
public:
    Stream(const std::string& endpoint, const std::string& name)
        : endpoint_(endpoint), name_(name), socket_(context_, zmq::socket_type::sub) {
        socket_.set(zmq::sockopt::rcvhwm, kHighWater);
        socket_.set(zmq::sockopt::linger, 0);
        socket_.set(zmq::sockopt::maxmsgsize, int64_t(4 * kMaxGrid + kMaxHeader));
        socket_.set(zmq::sockopt::tcp_keepalive, 1);
        socket_.set(zmq::sockopt::reconnect_ivl_max, 200);
        socket_.set(zmq::sockopt::subscribe, "tokens/" + name);  // before info: what info says then holds for tokens
        socket_.set(zmq::sockopt::subscribe, "info/" + name);
        socket_.connect(endpoint);
    }

    std::optional<Message> next() {
        while (true) {
            if (!waiting_.empty()) {
                auto parts = std::move(waiting_.front());
                waiting_.erase(waiting_.begin());
                if (auto message = take_tokens(parts)) return message;
                continue;
            }
            if (ended_) return std::nullopt;
            std::vector<zmq::message_t> parts;
            if (zmq::recv_multipart(socket_, std::back_inserter(parts))) take(std::move(parts));
        }
    }

    const Json& info() const { return info_; }
    Counts counts;

private:
    using Parts = std::vector<zmq::message_t>;

    // Sort a message: tokens wait until the first info has come and the epoch has been fetched.
    void take(Parts parts) {
        const std::string topic = parts[0].to_string();
        if (topic == "info/" + name_)
            take_info(parts);
        else if (topic == "tokens/" + name_)  // ZeroMQ matches by prefix: front_left comes with front
            (info_.is_null() ? early_ : waiting_).push_back(std::move(parts));
    }

    void take_info(const Parts& parts) try {
        const Json info = read_header(parts);
        const bool first = info_.is_null();
        ended_ = info.at("ended").get<bool>();
        info_ = info;
        if (!first) return;
        if (info.at("last_seq").get<int64_t>() >= 0) fetch_epoch();
        std::move(early_.begin(), early_.end(), std::back_inserter(waiting_));
        early_.clear();
    } catch (const Json::exception&) {  // a field that is missing, or of another type
        ++counts.malformed;
    }

    // Ask for what the epoch has sent already, so that decoding starts at once. A node may refuse; then a keyframe comes.
    void fetch_epoch() {
        if (!info_.at("control").is_string()) return;
        std::string control = info_.at("control");
        for (const std::string any : {"0.0.0.0", "[::]"})
            if (const auto at = control.find(any); at != std::string::npos) control.replace(at, any.size(), host());
        zmq::socket_t dealer(context_, zmq::socket_type::dealer);
        dealer.set(zmq::sockopt::linger, 0);
        dealer.set(zmq::sockopt::rcvtimeo, 2000);
        dealer.connect(control);
        const Json request = {{"version", 1}, {"id", 1}, {"op", "epoch"}, {"stream", name_}};
        const auto packed = Json::to_msgpack(request);
        dealer.send(zmq::buffer(packed), zmq::send_flags::none);
        zmq::message_t answer;
        if (!dealer.recv(answer)) return;
        const Json reply = unpack(answer.data(), answer.size());
        if (!reply.is_object() || !reply.value("ok", false)) return;
        for (const auto& stored : reply.at("result").at("messages")) {  // topic, header, payload: each msgpack bin
            Parts parts;
            for (const auto& part : stored) {
                const auto& bytes = part.get_binary();
                parts.emplace_back(bytes.data(), bytes.size());
            }
            waiting_.push_back(std::move(parts));
        }
    }

    std::string host() const {
        const auto begin = endpoint_.find("://") + 3, end = endpoint_.rfind(':');
        return endpoint_.substr(begin, end - begin);
    }

    // Check a message by the page's rules and follow the stream; nothing for what breaks them or has come before.
    std::optional<Message> take_tokens(const Parts& parts) try {
        Message message;
        message.header = read_header(parts);
        if (message.header.is_null() || !read_grid(parts[2], message)) {
            ++counts.malformed;
            return std::nullopt;
        }
        const auto& header = message.header;
        const bool keyframe = header.at("keyframe");
        const std::string session = header.at("session");
        const int64_t seq = header.at("seq");
        if (session != session_) {  // the node has started anew: no loss
            session_ = session;
            last_ = -1;
            ready_ = false;
        }
        if (seq <= last_) return std::nullopt;
        if (last_ >= 0 && seq > last_ + 1) {
            message.lost = seq - last_ - 1;
            counts.lost += message.lost;
            ready_ = false;
        }
        last_ = seq;
        ready_ = ready_ || keyframe;
        message.decodable = ready_;
        ++counts.messages;
        return message;
    } catch (const Json::exception&) {
        ++counts.malformed;
        return std::nullopt;
    }

    static Json unpack(const void* data, size_t size) {
        const auto* bytes = static_cast<const uint8_t*>(data);
        return Json::from_msgpack(bytes, bytes + size, true, false);  // discarded, not thrown, on damage
    }

    static Json read_header(const Parts& parts) {
        if (parts.size() != 3 || parts[1].size() > kMaxHeader) return nullptr;
        const Json header = unpack(parts[1].data(), parts[1].size());
        return header.is_object() && header.value("version", Json()) == 1 ? header : Json(nullptr);
    }

    static bool read_grid(const zmq::message_t& payload, Message& message) {
        const Json& header = message.header;
        size_t count = 1, codes = 1;
        for (const size_t side : header.at("grid")) {
            if (side == 0 || side > kMaxGrid / count) return false;
            count *= side;
        }
        for (const size_t level : header.at("levels")) codes *= level;
        const std::string dtype = header.at("dtype");
        if (!header.at("levels").is_array() || (dtype != "uint16" && dtype != "uint32" && dtype != "float16")) return false;
        const size_t width = dtype == "uint32" ? 4 : 2;
        const auto* bytes = static_cast<const uint8_t*>(payload.data());
        if (crc32(0, bytes, uInt(payload.size())) != header.at("checksum").get<uint32_t>()) return false;
        std::vector<uint8_t> unpacked;
        if (header.at("compression") == "zstd") {
            if (ZSTD_getFrameContentSize(bytes, payload.size()) != count * width) return false;
            unpacked.resize(count * width);
            if (ZSTD_decompress(unpacked.data(), unpacked.size(), bytes, payload.size()) != unpacked.size()) return false;
            bytes = unpacked.data();
        } else if (header.at("compression") != "none") {
            throw std::runtime_error("compression " + header.at("compression").dump() +
                                     " is not read here: run the node with --compression none or zstd");
        } else if (payload.size() != count * width) {
            return false;
        }
        for (size_t i = 0; i < count; ++i) {  // little-endian, whatever this machine is
            uint32_t value = bytes[width * i] | bytes[width * i + 1] << 8;
            if (width == 4) value |= bytes[4 * i + 2] << 16 | uint32_t(bytes[4 * i + 3]) << 24;
            if (dtype == "float16") {
                message.latent.push_back(uint16_t(value));
                continue;
            }
            if (value >= codes) return false;
            message.tokens.push_back(value);
        }
        return true;
    }

    std::string endpoint_, name_, session_;
    zmq::context_t context_{1};
    zmq::socket_t socket_;
    std::vector<Parts> early_, waiting_;
    Json info_ = nullptr;
    int64_t last_ = -1;
    bool ready_ = false, ended_ = false;
};

}  // namespace streamtok
