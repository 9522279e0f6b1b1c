//! Phrases that many plots share: a name, followed by the ways to say it.
//!
//! `{who}` is the character for whom a plot uses the phrase; `grammar` explains the rest.

/// All phrases, separated by empty lines.
pub const PHRASES: &str = r#"
opening
once upon a time, there was a {trait} {who.kind} named {who}.
there once was a {trait} {who.kind} [called|by the name of] {who}.
{who} was a {trait} {who.kind} who lived in a {~cozy} {who.home} [near|by|not far from|close to] the {landmark}.
in a {~cozy} {who.home} [near|by|beside] the {landmark}, there lived a {trait} {who.kind} [named|called] {who}.
long ago, in a {~small} {town}, there lived a {trait} {who.kind} [named|called] {who}.
everybody in the {town} knew {who}, the {trait} {who.kind}.
this is the story of {who}, a {trait} {who.kind} from a {~small} {town}.
have you heard of {who}? There was no {who.kind} as {trait} as {who} in the whole {town}.

dawn
<opening:who>
one {fair} {time}, a {trait} {who.kind} named {who} [stepped outside|looked up at the sky|was in a very good mood|had nothing to do].
<opening:who> <shine>
{time.start}, a {trait} {who.kind} named {who} [stepped outside|looked up at the sky|went to the window]. {fair.line}.
in {fair.season}, when the days were {fair}, a {trait} {who.kind} named {who} [was always outside|could not sit still|woke up early].
it was {fair.season}, and a {trait} {who.kind} named {who} was [bored|full of plans|in no hurry at all].

likes
{who} [loved|liked] {hobby}.
{who} loved {hobby} [more than anything|more than anything else in the world|all day long].
every day, {who.he} spent hours {hobby}.
most of all, {who.he} liked {hobby} and {~hobby}.
{who.his} favorite thing was {hobby}, and {who.he} was good at it.
{who} liked {hobby}, but {who.he} did not like {~hobby} at all.

sky
it was a {weather} {weather.season} day. {weather.line}.
it was a {weather} day in {weather.season}, and {who} wore {weather.wear}.
{weather.line}. It was [a real|a very|just another] {weather} {weather.season} day.
on a {weather} {time} in {weather.season}, {who} stood at the window. {weather.line}.
{weather.season} had come, and with it the {weather} days.

shine
it was a {fair} {time}. {fair.line}.
{fair.line}. It was a {fair} {fair.season} {time}.
one {fair} {fair.season} {time}, everything seemed right. {fair.line}.
it was {fair.season} again, and the {time} was {fair}.
what a {fair} {time} it was! {fair.line}.

said
said {who}
{who} said
said {who} {~tone}
{who} {who.said}

answered
<said:who>
{who} answered
answered {who}
{who} replied
replied {who} {~tone}

asked
asked {who}
{who} asked
{who} wanted to know
asked {who} {~tone}

cried
cried {who}
{who} cried
{who} shouted
called {who}
{who} yelled

glad
{who} was {~glad}.
{who} smiled.
{who} [laughed|smiled|grinned] and clapped {who.his} hands.
a big smile spread over {who.his} face.
{who} was so {~glad} that {who.he} [danced around|jumped up and down|hugged everyone|began to sing].
{who} felt warm inside.
{who} beamed [like the sun|from ear to ear].

sorrow
{who} was {~sad}.
{who} felt {~sad} and began to cry.
tears [ran|rolled] down {who.his} face.
{who} sat down and cried quietly.
{who} hung {who.his} head. {who.he} was {~sad}.
{who} swallowed hard and tried not to cry.

fear
{who} was {~scared}.
{who} felt {~scared} and held {who.his} breath.
{who.his} heart beat fast.
{who} was so {~scared} that {who.he} could not move.
{who.his} knees shook, for {who.he} was {~scared}.

thanks
"Thank you, {who}!"
"thank you so much, {who},"
"You are the best, {who}!"
"thank you, {who}. I will never forget this,"
"How can I ever thank you, {who}?"
"bless you, {who}. You are a true friend,"

thought
{who} thought [for a moment|about it|for a while|hard].
{who} sat down to think.
{who} scratched {who.his} head.
{who} closed {who.his} eyes and thought about it.
{who} did not know what to do [at first|for a while].

happily
{who} [went home|fell asleep|went to bed] with a smile.
that night, {who} [slept well|had sweet dreams|fell asleep at once].
and {who} was {~glad} for the rest of the [day|week].
for supper there was {~supper}, and {who} told {~elder} all about it.
everyone agreed that {who} was a truly {trait} {who.kind}.
{who} told the story again and again, and it grew a little each time.
it was the best day of the whole year.

home
{who} {~walk.walked} home for supper, and there was {supper}.
{who} {~walk.walked} home {~fast}.
when {who} came home, {elder} had cooked {supper}.
then it was time to go home. [{elder} was waiting at the door.|It was getting dark.|The {supper} was already on the table.]
"#;
