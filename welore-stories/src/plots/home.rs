//! Plots of everyday life.

/// A box whose color, hint and content belong together; a year is added.
pub const BIRTHDAY: &str = r#"
hero guest: boy girl | girl boy | girl girl | boy boy | critter critter
old: 4..9
year: 1..1
new: old + year
guess: gift

{hero} was {old} years old. Tomorrow {hero.he} would be {new}.
it was {hero}'s birthday. Yesterday {hero.he} was {old}, and today {hero.he} was {new}!
"How old are you now?" <asked:elder>. "I was {old}, so now I am {new}!" <cried:hero>.
one {weather} {time} in {weather.season}, {hero} woke up and was {new} years old. {hero.he} did not feel any bigger than at {old}.
{hero} was a {trait} {hero.kind} of {old}, and {hero.he} could hardly wait to be {new}.

? <likes:hero>

for the party, {elder} baked a {big} cake with {new} candles.
{elder} had hung up {color} balloons and made {dish}.
{elder} put {new} candles on the table and {dish} next to them.
in the {~cozy} {hero.home} there was a table with {new} {color} candles.

at noon {guest} came with a {color} box.
then the bell rang. It was {guest}, and under {guest.his} arm was a {color} box.
{guest} brought a {pretty} box with {color} paper around it.
all the guests brought something, but the {color} box from {guest} was the most exciting one.

"What is in it?" <asked:hero>. "guess! It {gift.hint}," <answered:guest>.
"You have to guess," <said:guest>. "here is a hint. It {gift.hint}."
{hero} shook the {color} box. "May I have a hint?" {hero.he} asked. "it {gift.hint}," <answered:guest>.
"I will tell you only one thing: it {gift.hint}," <said:guest>.

"Is it a {guess}?" <asked:hero>. "no! A {guess} {guess.hint}."
{hero} thought of a {guess}. But a {guess} {guess.hint}, so that was wrong.
first {hero} guessed a {guess}, and everyone laughed.
<thought:hero> a {guess}? no, it could not be a {guess}.

either

"It {gift.hint}," {hero} said to {hero.himself}. "then it must be a {gift}!"
then {hero} knew it. "It is a {gift}!" <cried:hero>.
"If it {gift.hint}, it is a {gift}," <said:hero>. {guest} clapped.

{hero} opened the {color} box. It was a {gift}, just as {hero.he} had said!
and so it was. Out of the box came a {~pretty} {gift}.

or

{hero} could not guess it. So {hero.he} opened the {color} box. It was a {gift}!
"I give up!" <cried:hero>. {hero.he} tore off the {color} paper. There was a {gift}.
at last {hero} opened the lid and saw a {gift}. "Of course! It {gift.hint}!" {hero.he} laughed.

or

just then {mischief} ran through the room and knocked the {color} box over. Out fell a {gift}.
then {mischief} {mischief.cried}, jumped on the {color} box and tore it open. "A {gift}!" <cried:hero>.

"Well, now you know," <said:guest>, and everybody laughed.
{guest} was {~angry} for a moment, but then {guest.he} had to laugh.

end

<glad:hero>

<thanks:guest> <said:hero>. {hero.he} {gift.joy}.
after the cake was gone, {hero} {gift.joy}.
{hero} {gift.joy}. {guest} was {~glad} to see it.
that very day {hero} {gift.joy}, and {guest} was allowed to be next.

then {hero} blew out all {new} candles and made a wish.
{hero} blew once, and {old} candles went out. {hero.he} blew again, and the last one was out too.
"What did you wish for?" <asked:guest>. "if I tell you, it will not come true."
when it got dark, they lit the {new} candles and sang.

in the evening {hero} said, "it is good to be {new}."
the best gift is [the one that comes from a friend|a friend who knows what you like].
{hero} learned that waiting makes a gift even better.
the {gift} was {pretty}, but having {guest} there was the best of all.
"I want such a party every year," <said:hero>. "then you must come each time," {hero.he} told {guest}.
"#;

/// Something breaks; the truth comes out, sooner or later.
pub const BROKEN: &str = r#"
hero other: boy girl | girl boy | girl girl | boy boy | critter critter

<opening:hero>

<sky:hero>

{hero} and {other} were playing inside with a {color} {toy}.
because of the weather, {hero} had to stay inside. {other} came over, and they played with a {color} {toy}.
{hero} was not allowed to run in the room. But {hero.he} ran all the same.
"Do not play near the {breakable}," <said:elder> before {elder.he} left.

then something happened to the {breakable}: {breakable.how}.
{hero} turned around too quickly. There went the {breakable}: {breakable.how}.
suddenly there was a noise. {hero} had bumped into the {breakable}, and {breakable.how}.
one wrong step, and it was too late for the {breakable}: {breakable.how}.

it was {elder}'s favorite {breakable}. <fear:hero>
{hero} stared at the {breakable}. <fear:hero>
"Oh no, {elder} loves that {breakable}," <said:other>.
<sorrow:hero> {elder} had bought the {breakable} at a fair long ago.

either

"I will hide it {nook}," {hero} thought. And so {hero.he} did.
{hero} put the {breakable} {nook}, where nobody would look.
"Nobody saw it," {hero} said and pushed everything {nook}.

soon {elder} came home. "where is my {breakable}?" {elder.he} asked. "I do not know," <answered:hero>.
"Have you seen the {breakable}?" <asked:elder>. {hero} looked at {hero.his} feet and said no.
when {elder} asked about the {breakable}, {hero} blamed {mischief}.

that night {hero} could not sleep. The lie was like a stone in {hero.his} tummy.
{hero} did not enjoy the {supper}. {hero.he} thought only of what lay {nook}.
the more {hero} thought about the lie, the heavier it got.

in the morning {hero} took {elder} by the hand and showed {elder.him} what was {nook}. "I did it," {hero.he} said.
at last {hero} got the {breakable} from its place {nook}. "I broke it, and I lied," {hero.he} said.
"{elder}, it was me," {hero} whispered. "it is {nook}."

or

"Let us say that {mischief} did it," <said:other>. {hero} shook {hero.his} head. "no, that would be a lie."
"Run!" <cried:other>. But {hero} stayed where {hero.he} was.
<thought:hero> then {hero.he} {walk.walked} to {elder}, before anyone could ask.

"{elder}, I broke the {breakable}. I am very sorry," <said:hero>.
"It was me," <said:hero>. "I played with the {toy}, and {breakable.how}."
{hero} told {elder} everything, from the {toy} to the {breakable}.

or

when {elder} came in, {elder.he} thought that {other} had done it. "{other}, was that you?" <asked:elder>.
"{other}! How could you?" <cried:elder>. {other} said nothing and began to cry.

{hero} could have kept quiet. But {other} was {hero.his} friend.
{hero} saw that {other} was {~sad}. That was not fair.

"{other} did nothing. I broke the {breakable}," <said:hero>.
"No, {elder}. It was not {other}, it was me," <said:hero>.

end

{elder} was {angry} at first. Then {elder.he} hugged {hero}. "thank you for telling the truth," {elder.he} said.
"A {breakable} can be fixed," <said:elder>. "trust is harder to fix. I am glad you told me."
{elder} was silent for a while. "I am {sad} about the {breakable}. But I am proud of you," {elder.he} said.
"That took courage," <said:elder>.

together they got {breakable.fix} and {breakable.fixed}.
then {elder} brought {breakable.fix}. {hero} {breakable.fixed}, and {elder} helped.
"Do we have {breakable.fix}?" <asked:hero>. They had, and {hero} {breakable.fixed}.
{other} came back with {breakable.fix}. {other.he} held the lamp while {hero} {breakable.fixed}.

? now the {breakable} looked [almost as good as new|even better than before].
you could still see where it was broken. "that is how I remember that you are honest," <said:elder>.

{hero} learned that the truth is [always best|lighter than a lie].
everyone makes mistakes, but not everyone owns up to them.
a lie breaks more than a {breakable}.
it is hard to say "I did it," but it feels good after.
those who tell the truth sleep well.
"#;

/// A recipe of three things, one of which is missing.
pub const COOKING: &str = r#"
hero friend: girl boy | boy girl | critter critter | boy boy | girl girl
guests: 3..8

<opening:hero>

? <sky:hero>

one {time}, {hero} wanted to make {dish} for {elder}.
{hero} was hungry. "I will make {dish}," {hero.he} said.
"Shall we cook something for {elder}?" <asked:friend>. "yes! {dish}!" <cried:hero>.
{guests} guests were coming, and {hero} had promised to make {dish}.
{elder} was sick in bed. To cheer {elder.him} up, {hero} and {friend} wanted to make {dish}.

"For {dish} you need {dish.first}, {dish.second} and {dish.third}," <said:elder>.
{hero} opened the cookbook and read: take {dish.first}, {dish.second} and {dish.third}.
on a yellow sheet of paper stood how to make it: first {dish.first}, then {dish.second}, and last {dish.third}.
{hero} knew what had to go in: {dish.first}, {dish.second} and {dish.third}.

either

{dish.first} and {dish.second} were in the cupboard. But there was no {dish.third}!
{hero} found {dish.first} and {dish.second}. {hero.he} looked {nook}, but could not find any {dish.third}.
"We have {dish.first} and {dish.second}," <said:friend>. "but there is no {dish.third}," <said:hero>.

"Without {dish.third} it will not be {dish.tasted}," <said:hero>.
"I will go and ask {job}," <said:hero>.
{hero} put on {hero.his} {color} {clothes} and {walk.walked} to {job}.

"{time.greet}! Could I have some {dish.third}, please?" <asked:hero>. {job} went into the {job.shop} and came back with {dish.third}.
{job} had just what was missing. "take it, but bring me a taste," <said:job>.
"What do you need it for?" <asked:job>. "for {dish}." "Then here you are," <answered:job>.

now they had everything. {hero} {dish.cooked} the {dish} {~softly}.
with {dish.first}, {dish.second} and {dish.third} in the pot, they {dish.cooked} it for an hour.
{hero} mixed {dish.first} with {dish.second}, {friend} added {dish.third}, and then they {dish.cooked} it.

everyone said that the {dish} was very {dish.tasted}.
how {dish.tasted} it was! even the last crumb was eaten.
the {dish} was so {dish.tasted} that {elder} asked for more.

{hero} did not forget {job} and brought {job.him} a full plate.
and {job} got the first plate, for without {dish.third} there would have been no {dish}.
"This plate is for {job}. {job.he} gave us the {dish.third}," <said:hero>.

a good neighbor is the best spice.
{hero} learned that it is all right to ask for help.
who shares {dish.third} is welcome to share the meal.

or

{hero} took {dish.first} and {dish.second}. Then {friend} told a joke, and {hero} forgot the {dish.third}.
they were singing so loudly that {hero} put the {dish.third} in two times.
the cups looked the same. By mistake, {hero} took soap in place of {dish.third}.

then they {dish.cooked} it for {guests} minutes too long.
soon a {strange} smell came from the kitchen.
when it was {dish.cooked}, {hero} tried a spoonful. <sorrow:hero>

it was not {dish.tasted} at all! {friend} made a face.
"Is it supposed to taste like this?" <asked:friend>. They looked at each other and laughed.
even {mischief} did not want to eat it.

"Let us read it again," <said:friend>. "{dish.first}, {dish.second} and {dish.third}." Step by step they started over.
{hero} did not give up. This time {friend} read aloud: {dish.first}, {dish.second}, {dish.third}.
{elder} came and helped. {dish.first} first, then {dish.second}, and {dish.third} at the end.

the second time, the {dish} was {dish.tasted}.
and this time it was so {dish.tasted} that all plates were empty in no time.
"Now it is {dish.tasted}!" <cried:friend>.

{hero} learned to do one thing at a time.
mistakes are there to learn from.
whoever reads twice cooks only once.
even a bad {dish} can be the start of a good one.

end

? <happily:hero>
"#;

/// Coins, a price and the change.
pub const MARKET: &str = r#"
hero seller kid: girl job boy | boy job girl | critter job critter
coins: 8..15
price: 3..6
left: coins - price
extra: 2..5
all: left + extra

<dawn:hero>

{hero} had {coins} coins. {hero.he} had saved them for a long time.
{elder} gave {hero} {coins} coins and said, "spend them well."
for helping {job}, {hero} had got {coins} coins.
{hero} broke {hero.his} piggy bank and counted. {coins} coins!

so {hero} {walk.walked} to the {market}, where they sold {market.sold}.
at the {market} there was so much to see: {market.sold}, and {fruit}, and {~fruit}!
on {fair.season} days, there was a {market} in the {town}. {hero} loved the smell of {fruit}.
{hero} took {hero.his} coins to the {market}.

there {hero} saw a {color} {toy}.
a {color} {toy} made of {toy.made} stood on a table. "how {pretty}!" {hero} thought.
between {junk} and a {~color} {~toy}, {hero} found a {color} {toy}.

"How much is the {toy}?" <asked:hero>. "{price} coins," <answered:seller>.
"You may have it for {price} coins," said {seller}, who stood behind the table.
{seller} wanted {price} coins for it.

either

{hero} paid {price} coins. Now {hero.he} had {left} coins left.
{hero} counted {price} coins into {seller.his} hand. {coins} less {price} is {left}, so {left} were left.
{hero} gave {seller} {price} of the {coins} coins and kept {left}.

but when {hero} counted again, there were {all} coins. {seller} had given back {extra} too many!
on the way home {hero} counted the coins. {all}? there should be only {left}!
then {hero} stopped. In {hero.his} pocket were not {left} but {all} coins, {extra} too many.

"I could buy {fruit} with that," {hero} thought. But it did not feel right.
nobody would ever know. <thought:hero>
{hero} wanted to keep them. Then {hero.he} thought of {seller}, who had to work hard for every coin.

{hero} {~walk.walked} back. "you gave me {extra} coins too many," {hero.he} said.
so {hero} went back to {seller} and gave the {extra} coins back.
"Here are {extra} coins that are not mine," <said:hero>.

{seller} was surprised. "Such an honest {hero.kind}! Please take {seller.pay} as a present," <said:seller>.
"Not many would come back," <said:seller> and gave {hero} {seller.pay}.
<thanks:hero> <said:seller>. And {seller.he} gave {hero} {seller.pay}.

{hero} learned that it feels good to be honest.
{extra} coins are soon gone, but a good name stays.
honest hands are never empty.

or

just then {hero} saw a {~small} {kid.kind} who was crying. "I have lost my money," {kid.he} said.
{hero} was about to pay. Then {hero.he} heard someone cry. It was {kid}, who had lost {kid.his} coins.
next to {hero} stood {kid}. {kid.he} wanted to buy {animal.eats} for a hungry {animal.noun}, but {kid.he} had no money.

{hero} looked at the {toy}, and then at {kid}. {hero.he} gave {kid} {price} coins and kept {left}.
"How much do you need?" <asked:hero>. "{price} coins," <answered:kid>. {hero} gave them to {kid.him}. {left} coins were left.
<thought:hero> then {hero.he} took {price} coins and put them into {kid}'s hand. Now {hero} had {left}.

<thanks:hero> <said:kid>. <glad:kid>
{kid} could not say a word, but {kid.his} eyes shone.
<glad:kid> "I will pay you back," <said:kid>.

{seller} had seen it all. {seller.he} gave {hero} the {color} {toy} for nothing.
"For you the {toy} is free, because you have a good heart," <said:seller>.
a week later, {kid} brought {extra} coins. Now {hero} had {all}, and the {toy} was still there.

money can buy a {toy}, but not the smile of a friend.
{hero} learned that giving can be better than buying.
who gives with an open hand has a hand free to be held.

or

under the table lay a {keepsake} made of {keepsake.made}. {keepsake.mark}.
as {hero} bent down, {hero.he} saw a {keepsake}. {keepsake.mark}.

"Is this yours?" {hero} asked {seller}. "my {keepsake}! I have looked for it for {few} years," <answered:seller>.
{hero} showed it to {seller}, who began to cry. "it was my mother's {keepsake}," <said:seller>.

"Take the {toy}," <said:seller>. "and keep your {coins} coins."
{seller} did not take any money for the {toy}. So {hero} still had {coins} coins.

to give back what you find is the best trade of all.
{hero} had {coins} coins, a {toy} and a new friend.
things that are lost want to go home, and {hero} had helped.

end

? <home:hero>
"#;

/// A chain of swaps: who has what in the end?
pub const TRADE: &str = r#"
hero second third: girl boy girl | boy girl boy | girl girl boy | critter critter critter
mine yours theirs: toy toy keepsake

<dawn:hero>

{hero} had a {color} {mine}. But {hero.he} was tired of it.
{hero} had had a {mine} for a long time. "I would like something new," {hero.he} thought.
when {hero} was small, {hero.he} loved {hero.his} {mine}. Now it just lay {nook}.

either

{hero} took the {mine} and {walk.walked} to the {outdoors}.
with the {mine} under {hero.his} arm, {hero} {walk.walked} to the {market}.

or

"Why not trade it?" <asked:elder>. So {hero} {walk.walked} outside with the {mine}.
"Somebody else may want it," <said:elder>. {hero} put the {mine} into a bag and went out.

end

there {hero} met {second}, who had a {yours}. "shall we trade?" <asked:second>.
{second} was sitting {spot} with a {yours}. "I will give you my {yours} for your {mine}," <said:second>.
first came {second}. "what a nice {mine}! Take my {yours} for it," <said:second>.

{hero} agreed. Now {second} had the {mine}, and {hero} had the {yours}.
so {hero} gave {second} the {mine} and got the {yours}. {hero.he} {yours.did}.
they shook hands. {second} {mine.did}, and {hero} {yours.did}.

a little later, {third} came along with a {theirs} made of {theirs.made}.
then {hero} saw {third}. {third} wore a {theirs} on a string, and {theirs.mark}.
"Look at my {theirs}," <said:third>. It was made of {theirs.made}, and {theirs.mark}.

"I like your {yours}. Do you want my {theirs} for it?" <asked:third>.
"Would you give me the {yours} for this {theirs}?" <asked:third>. {hero} did not have to think.
{third} wanted the {yours} so much that {hero} said yes.

now {third} had the {yours}, and {hero} had the {theirs}.
the {yours} went to {third}, and the {theirs} went into {hero}'s pocket.
{hero} held the {theirs} up to the light. {third} already {yours.did}.

either

{hero} was {~glad} until the evening. Then {hero.he} missed the old {mine}.
but at night {hero} could not sleep. The {mine} was not there.
"What have I done?" {hero} thought. "the {theirs} is {pretty}, but I miss my {mine}."

who had the {mine}? {second} had it! {hero} {~walk.walked} to {second} in the morning.
{hero} went to {second} and asked for the {mine}. "I will give you the {theirs}," {hero.he} said.

{second} smiled. "you can have it back. I will take the {theirs}," <said:second>.
"I knew that you would come," <said:second> and gave the {mine} back for the {theirs}.

so in the end {hero} had the {mine}, {second} had the {theirs}, and {third} had the {yours}.
now {second} has the {theirs}, {third} has the {yours}, and {hero} never gives the {mine} away again.

{hero} learned that you know what you love when it is gone.
new things shine, but old things are warm.
the best thing is often the one you already have.

or

at home {hero} gave the {theirs} to {elder}. "I have lost one just like that!" <cried:elder>.
{elder} looked at the {theirs} and began to cry. {theirs.mark}. "it is the very one that I lost as a child!"

"How did you get it?" <asked:elder>. "I gave {second} the {mine}, and {third} the {yours}," <answered:hero>.
{hero} told {elder} the story of {second}'s {yours} and {third}'s {theirs}.

<glad:elder> and that made {hero} happier than any toy.
{elder} hugged {hero} for a long time.

a gift from the heart is the best trade.
what is old to one can be a treasure to another.
everyone got what they wanted: {second} the {mine}, {third} the {yours}, and {elder} the {theirs}.

or

the next day, {second} and {third} came to {hero}. "we miss our things," they said.
but {second} wanted the {yours} back, and {third} wanted the {theirs} back.

<thought:hero> "then let us share everything," {hero.he} said.
"I have an idea," <said:hero>. "we put it all in one box, and each of us may take what is there."

so they put the {mine}, the {yours} and the {theirs} into a {color} box, and each day another one could choose.
on Monday {hero} had the {mine}, {second} the {yours} and {third} the {theirs}. On Tuesday they changed.

to share is better than to trade.
three friends with one box have more than three friends with three boxes.
nobody had to lose anything, and everyone won.

end
"#;
