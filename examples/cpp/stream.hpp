// A reader of streamtok's token streams by docs/wire-protocol.md alone: cppzmq, nlohmann-json (which knows
// msgpack), zlib, zstd.
#pragma once

#include <zlib.h>
#include <zstd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
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
constexpr size_t kMaxReply = 34603008;  // bytes of what the control socket answers
constexpr size_t kHighWater = 64, kDeepest = 16;

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

// Stops what nests deeper than any message does: the parser calls itself for each level, until the stack is full.
struct Depth : nlohmann::json_sax<Json> {
    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return true; }
    bool number_unsigned(number_unsigned_t) override { return true; }
    bool number_float(number_float_t, const string_t&) override { return true; }
    bool string(string_t&) override { return true; }
    bool binary(binary_t&) override { return true; }
    bool key(string_t&) override { return true; }
    bool start_object(size_t) override { return ++depth < kDeepest; }
    bool start_array(size_t) override { return ++depth < kDeepest; }
    bool end_object() override { return depth-- > 0; }
    bool end_array() override { return depth-- > 0; }
    bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }
    size_t depth = 0;
};

// Reads one stream of one node. `next` waits and returns nothing when the node has ended; it throws std::runtime_error for
// a stream that it cannot read. Messages that break the protocol are counted.
class Stream {
public:
    Stream(const std::string& endpoint, const std::string& name)
        : endpoint_(endpoint), name_(name), socket_(context_, zmq::socket_type::sub) {
        socket_.set(zmq::sockopt::rcvhwm, int(kHighWater));
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
            if (!believed_.empty()) {
                Message message = std::move(believed_.front());
                believed_.pop_front();
                counts.lost += message.lost;
                ++counts.messages;
                return message;
            }
            if (auto& parts = stored_.empty() ? waiting_ : stored_; !parts.empty()) {
                take_tokens(parts.front());
                parts.pop_front();
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
        if (early_.size() > kHighWater) early_.pop_front();
    }

    void take_info(const Parts& parts) try {
        const Json info = read_header(parts);
        const bool first = info_.is_null();
        const std::string session = info.at("session");
        const int64_t last = info.at("last_seq");
        ended_ = info.at("ended").get<bool>();
        info_ = info;
        if (bears_out(session, last)) {
            believe(std::move(*held_));
            held_.reset();
        }
        if (!first) return;
        if (last >= 0) fetch_epoch();
        std::move(early_.begin(), early_.end(), std::back_inserter(waiting_));
        early_.clear();
    } catch (const Json::exception&) {  // a field that is missing, or of another type
        ++counts.malformed;
    } catch (const zmq::error_t&) {  // a control address that is none
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
        dealer.set(zmq::sockopt::maxmsgsize, int64_t(kMaxReply));
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
            stored_.push_back(std::move(parts));
        }
    }

    std::string host() const {
        const auto begin = endpoint_.find("://") + 3, end = endpoint_.rfind(':');
        return endpoint_.substr(begin, end - begin);
    }

    // Check a message by the page's rules. One that continues the stream is believed at once. One that would move what is
    // known of it, a jump or another session, is held until another comes behind it: a wrong one costs itself alone.
    void take_tokens(const Parts& parts) try {
        Message message;
        message.header = read_header(parts);
        if (message.header.is_null() || !read_grid(parts[2], message)) {
            ++counts.malformed;
            return;
        }
        const std::string session = message.header.at("session");
        const int64_t seq = message.header.at("seq");
        if (session == session_ && seq == last_) return;
        if (stored_.empty() && session == stored_session_ && seq <= stored_last_) return;  // it came with the epoch
        if (bears_out(session, seq - 1)) believe(std::move(*held_));
        held_.reset();
        if (session_.empty() || (session == session_ && seq - 1 == last_))
            believe(std::move(message));
        else
            held_ = std::move(message);
    } catch (const Json::exception&) {
        ++counts.malformed;
    }

    // Whether what comes after message `last` may follow the held one; a jump ahead does not for one that went back.
    bool bears_out(const std::string& session, int64_t last) const {
        if (!held_ || held_->header.at("session") != session) return false;
        const int64_t seq = held_->header.at("seq");
        return seq <= last && !(session == session_ && seq <= last_ && last_ <= last);
    }

    // Say of a message what was lost before it, and whether a decoder can take it; it is what comes next.
    void believe(Message message) {
        const std::string session = message.header.at("session");
        const int64_t seq = message.header.at("seq");
        const bool goes_on = session == session_ && seq > last_;  // else the stream has begun anew: no loss
        message.lost = goes_on ? seq - last_ - 1 : 0;
        ready_ = message.header.at("keyframe") || (ready_ && goes_on && message.lost == 0);
        message.decodable = ready_;
        session_ = session;
        last_ = seq;
        if (!stored_.empty()) {  // all of the epoch comes before what is live
            stored_session_ = session;
            stored_last_ = seq;
        }
        believed_.push_back(std::move(message));
    }

    static Json unpack(const void* data, size_t size) {
        const auto* bytes = static_cast<const uint8_t*>(data);
        Depth depth;
        if (!Json::sax_parse(bytes, bytes + size, &depth, Json::input_format_t::msgpack)) return nullptr;
        return Json::from_msgpack(bytes, bytes + size);
    }

    static Json read_header(const Parts& parts) {
        if (parts.size() != 3 || parts[1].size() > kMaxHeader) return nullptr;
        const Json header = unpack(parts[1].data(), parts[1].size());
        return header.is_object() && header.value("version", Json()) == 1 ? header : Json(nullptr);
    }

    // Whether the fields that programs read are there, and are what they have to be.
    static bool is_whole(const Json& header) {
        const std::string session = header.at("session");
        bool whole = session.size() == 32 && session.find_first_not_of("0123456789abcdef") == std::string::npos;
        whole = whole && header.at("frame_ids").is_array() && header.at("keyframe").is_boolean();
        for (const auto& number : header.at("frame_ids")) whole = whole && number.is_number_unsigned();
        whole = whole && header.at("seq").is_number_unsigned() && header.at("seq").get<uint64_t>() >> 63 == 0;
        return whole && header.at("epoch").is_number_unsigned();
    }

    bool read_grid(const zmq::message_t& payload, Message& message) {
        const Json& header = message.header;
        if (!is_whole(header)) return false;
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
        } else if (header.at("compression") == "coded" && counts.messages == 0) {
            throw std::runtime_error("compression \"coded\" is not read here: run the node with --compression none or zstd");
        } else if (header.at("compression") != "none" || payload.size() != count * width) {
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

    std::string endpoint_, name_, session_, stored_session_;  // of what is believed, and of what came with the epoch
    zmq::context_t context_{1};
    zmq::socket_t socket_;
    std::deque<Parts> early_, stored_, waiting_;
    std::deque<Message> believed_;
    std::optional<Message> held_;
    Json info_ = nullptr;
    int64_t last_ = -1, stored_last_ = -1;
    bool ready_ = false, ended_ = false;
};

}  // namespace streamtok
